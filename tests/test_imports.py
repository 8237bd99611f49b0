"""Imports point one way, and the light parts stay light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "meap_megatron"
ALLOWED = {
    "masking": set(),
    "indexed": {"masking"},
    "tokenizer": {"indexed", "corpus"},
    "corpus": {"indexed", "tokenizer"},
    "datasets": {"masking", "indexed"},
    "checkpoint": {"indexed", "tokenizer", "corpus"},
    "launch": {"masking", "indexed", "tokenizer", "datasets", "checkpoint", "training"},
    "training": {"masking", "indexed", "datasets", "checkpoint", "launch"},
    "monitoring": {"checkpoint"},
    "evaluation": {"masking", "indexed", "tokenizer", "corpus"},
    "generation": {"checkpoint", "evaluation"},
    "report": {"evaluation", "monitoring"},
    "sweep": {"launch", "training"},
    "demo": {"indexed", "corpus", "datasets", "training", "report"},
    "doctor": {"training"},
    "rehearsal": {"indexed", "datasets", "checkpoint", "launch", "training"},
    "planning": {"indexed", "launch"},  # recipes, what FP8 asks of shapes, and sidecars: none of them imports torch
}
"""Package -> packages of ours that it may import; `errors`, `config`, `version` are open to all."""


def imported_packages(folder: Path) -> dict[str, set[str]]:
    """Return the packages of ours that each file of a folder imports, lazily or not."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [f"{node.module}.{a.name}" for a in node.names]
            names |= {m.split(".")[1] for m in modules if m.startswith("meap_megatron.") and m.count(".") > 0}
        found[path.name] = names
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    packages = {p.name for p in PACKAGE.iterdir() if p.is_dir()}
    for name, imported in imported_packages(PACKAGE / package).items():
        wrong = (imported & packages) - ALLOWED[package] - {package}
        assert not wrong, f"{package}/{name} imports {wrong}"


def test_every_import_names_a_module_that_exists() -> None:
    root = PACKAGE.parent
    files = [
        p
        for d in ("meap_megatron", "tests", "benchmarks", "experiments", "tools", "docs")
        for p in (root / d).rglob("*.py")
    ]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                place = root.joinpath(*node.module.split("."))
                ours = node.module.split(".")[0] in ("meap_megatron", "tests", "benchmarks", "experiments")
                assert not ours or place.is_dir() or place.with_suffix(".py").is_file() or place.name == "_C", (
                    f"{path}: {node.module}"
                )


@pytest.mark.parametrize(
    "statement",
    [
        "import meap_megatron.masking as m; m.mask_positions",
        "import meap_megatron.config, meap_megatron.indexed.sidecar",
        "from meap_megatron.cli.main import main; main(['--help'])",
        "from meap_megatron.launch import recipe, flags, arguments; from meap_megatron.training import metrics",
        "from meap_megatron.monitoring import status, compare, overlay, screen",
    ],
)
def test_the_light_parts_import_without_torch_and_megatron(statement: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; sys.modules['megatron'] = None; {statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_verb_explains_itself_without_torch() -> None:
    from meap_megatron.cli.main import SUMMARIES, VERBS

    assert set(VERBS) == set(SUMMARIES)
    code = (
        "import sys, contextlib, io; sys.modules['torch'] = None; sys.modules['megatron'] = None\n"
        "from meap_megatron.cli.main import main, VERBS\n"
        "for verb in VERBS:\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stdout(said):\n"
        "        try: main([*verb.split(), '--help'])\n"
        "        except SystemExit as stop: assert stop.code == 0, verb\n"
        "    assert f'usage: meap {verb}' in said.getvalue(), verb\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_source_file_is_longer_than_500_lines() -> None:
    root = PACKAGE.parent
    files = [p for d in ("meap_megatron", "csrc", "tools", "benchmarks") for p in (root / d).rglob("*")]
    lengths = {str(p): len(p.read_text().splitlines()) for p in files if p.suffix in {".py", ".hpp", ".cpp"}}
    assert not {name: length for name, length in lengths.items() if length > 500}
