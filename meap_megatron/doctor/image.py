"""What NVIDIA's image brought: written down before anything is installed over it, compared afterwards.

Run as a file by the Dockerfile, before the package is there, so it imports the standard library only:

  python image.py write image.txt --tested constraints.txt    a pip constraint file
  python image.py check image.txt                             exit status 1 if a protected package changed
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

PROTECTED = re.compile(
    r"(torch.*|pytorch-triton|triton|transformer-engine.*|apex|flash-attn.*|nvidia-.*|cuda-.*|tensorrt.*)$"
)
"""Canonical names of what is built against the image's CUDA; pip has no other build that fits."""

VARIABLE = "MEAP_IMAGE_VERSIONS"
"""Environment variable that names the constraint file inside the image."""


def canonical(name: str) -> str:
    """Return a distribution's name as pip compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return the version of every installed distribution by its canonical name."""
    return {canonical(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}


def pins(lines: Iterable[str]) -> dict[str, str]:
    """Read the lines `name==version`; others are passed over."""
    found = (re.match(r"([\w.-]+)==([^\s;#]+)", line) for line in lines)
    return {canonical(match[1]): match[2] for match in found if match}


def constraints(there: dict[str, str], tested: dict[str, str]) -> list[str]:
    """Return the lines of the constraint file.

    Args:
        there: installed distributions; the protected ones stay as they are.
        tested: versions for what is not installed yet. Packages that the image has and that are not protected are left
            to pip, which keeps them if they fulfil the requirements.
    """
    kept = {name: number for name, number in there.items() if PROTECTED.match(name)}
    new = {name: number for name, number in tested.items() if name not in there and not PROTECTED.match(name)}
    return [f"{name}=={number}" for name, number in sorted((kept | new).items())]


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return a line per protected package that is gone or of another version; new ones do no harm."""
    kept = sorted(name for name in before if PROTECTED.match(name))
    return [f"{name}: {before[name]} -> {now.get(name, 'gone')}" for name in kept if before[name] != now.get(name)]


def main(argv: list[str]) -> int:
    """Write or check the file and return the exit status."""
    parser = argparse.ArgumentParser(prog="image.py")
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--tested", type=Path, help="constraints of the tested environment, for what is not installed")
    args = parser.parse_args(argv)
    there = installed()
    if args.action == "write":
        if "torch" not in there:
            print("image.py: torch is not installed; this is not NVIDIA's PyTorch image", file=sys.stderr)
            return 1
        tested = pins(args.tested.read_text(encoding="utf-8").splitlines()) if args.tested else {}
        temporary = args.file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text("\n".join([*constraints(there, tested), ""]), encoding="utf-8")
        os.replace(temporary, args.file)
        return 0
    changed = changes(pins(args.file.read_text(encoding="utf-8").splitlines()), there)
    print("\n".join(changed or ["torch, Transformer Engine, Apex and the other NVIDIA packages are as they came"]))
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
