"""The Dockerfile's own steps, run by pip against a made-up image: torch, Transformer Engine and Apex stay as they came.

The image is an environment with the versions of the base image under their names, and numpy as old as it ever was there.
The index is a folder: all that our environment holds, metadata only, and baits, newer versions of what must not change.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.doctor import image
from meap_megatron.version import __version__
from tests.container import wheels
from tests.container.dockerfile import ROOT, command, final, read

IMAGE = {
    "torch": "2.13.0a0+9186a08b2c.nv26.7.59513937",
    "torchvision": "0.28.0a0+1",
    "triton": "3.7.1+gitf797708c.nv26.7",
    "transformer-engine": "2.17.0+1",
    "apex": "0.1",
    "flash-attn": "2.7.4.post1",
    "nvidia-dali-cuda130": "2.2.0",
    "numpy": "1.26.4",
}
PROTECTED = sorted(set(IMAGE) - {"numpy"})

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("container")]


class Image:
    """An environment in place of the image, and the index it installs from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index"
        base = folder / "base"
        for path in (self.index, base, folder / "wheels", folder / "meap"):
            path.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=600)
        self.python = folder / "venv/bin/python"
        wheels.mirror(self.index, without=("meap-megatron", "pip"))
        for name in PROTECTED:
            wheels.make(self.index, name, "99.0")
        for name, version in IMAGE.items():
            wheels.make(base, name, version)
        self.pip("install", "--no-index", *map(str, base.iterdir()))
        for source in ("constraints.txt", "meap_megatron/doctor/image.py"):
            (folder / "meap" / Path(source).name).write_bytes((ROOT / source).read_bytes())
        self.make_own()

    def make_own(self, *more: str) -> None:
        """Write the wheel of the build stage from pyproject.toml, with further requirements."""
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extra = [f'{need} ; extra == "eval"' for need in project["optional-dependencies"]["eval"]]
        needs = [*project["dependencies"], *extra, *more]
        wheels.make(self.folder / "wheels", "meap-megatron", __version__, requires=needs, extras=["eval"])

    def pip(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run([str(self.python), "-m", "pip", *words], **environment)

    def run(self, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        settings = {
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }
        return subprocess.run(
            words, env=clean | settings | environment, capture_output=True, text=True, timeout=600, check=False
        )

    def step(self, words: str, *, append: str = "") -> subprocess.CompletedProcess[str]:
        """Run the RUN step of the last stage that holds these words, with the image's folders replaced by ours."""
        (found,) = [i for i in final(read()) if i.name == "RUN" and words in i.words]
        text = command(found)
        places = {"/opt/meap/": "meap/", "/wheels/": "wheels/", "/tmp/": ""}
        text = re.sub("|".join(places), lambda match: f"{self.folder}/{places[match[0]]}", text)
        if append:
            assert "pip install --no-cache-dir" in text
            text = text.replace("pip install --no-cache-dir", f"pip install --no-cache-dir {append}")
        constraint = self.folder / "meap/image.txt"
        environment = {"PIP_CONSTRAINT": str(constraint)} if constraint.exists() else {}
        return self.run(["bash", "-o", "pipefail", "-c", text], **environment)

    def versions(self) -> dict[str, str]:
        done = self.pip("list", "--format=json")
        return {image.canonical(entry["name"]): entry["version"] for entry in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = Image(tmp_path_factory.mktemp("image"))
    done = made.step("image.py write")
    assert done.returncode == 0, done.stderr
    return made


def test_the_installation_would_change_no_protected_package(made: Image) -> None:
    report = made.folder / "report.json"
    done = made.step("pip install", append=f"--dry-run --report {report}")
    assert done.returncode == 0, done.stderr
    planned = {
        image.canonical(entry["metadata"]["name"]): entry["metadata"]["version"]
        for entry in json.loads(report.read_text())["install"]
    }
    assert not set(planned) & set(PROTECTED)
    assert planned["meap-megatron"] == __version__ and planned["lm-eval"] and planned["numpy"].startswith("2.")
    tested = image.pins((ROOT / "constraints.txt").read_text().splitlines())
    for name in ("megatron-core", "transformers", "tokenizers", "gigatoken"):
        assert planned[name] == tested[name]


def test_without_the_constraints_the_bait_would_have_been_taken(made: Image) -> None:
    done = made.pip("install", "--dry-run", "--upgrade", "torch", "transformer-engine", "apex")
    assert "torch-99.0" in done.stdout and "apex-99.0" in done.stdout
    kept = made.pip("install", "--dry-run", "--upgrade", "torch", PIP_CONSTRAINT=str(made.folder / "meap/image.txt"))
    assert "99.0" not in kept.stdout


def test_a_dependency_that_wants_another_torch_ends_the_build_and_changes_nothing(made: Image) -> None:
    made.make_own("torch>=2.14")
    try:
        before = made.versions()
        done = made.step("pip install")
        assert done.returncode != 0 and "conflict" in done.stderr
        assert made.versions() == before
    finally:
        made.make_own()


def test_the_step_replayed_installs_everything_and_a_torch_changed_later_is_found(made: Image) -> None:
    # Last in this file: it changes the environment that the others look at.
    done = made.step("pip install")
    assert done.returncode == 0, done.stdout + done.stderr
    there = made.versions()
    assert {name: there[name] for name in PROTECTED} == {name: IMAGE[name] for name in PROTECTED}
    assert there["meap-megatron"] == __version__ and "needlehaystack" in there
    made.pip("install", "--upgrade", "torch")
    record = made.folder / "meap"
    done = made.run([str(made.python), str(record / "image.py"), "check", str(record / "image.txt")])
    assert (done.returncode, done.stdout) == (1, "torch: 2.13.0a0+9186a08b2c.nv26.7.59513937 -> 99.0\n")
