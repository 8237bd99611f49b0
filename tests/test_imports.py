"""Imports point one way, no two files need each other, names are told apart, and the light parts stay light.

An import counts wherever it is: at the top, inside a function, for types only, or as the name of a module that is started
(`python -m`, `importlib`). Files are known by their path.
"""

import ast
import graphlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "meap_megatron"
ALLOWED: dict[str, set[str]] = {
    "masking": set(),
    "indexed": {"masking"},
    "tokenizer": {"indexed"},
    "corpus": {"indexed", "tokenizer"},
    "datasets": {"masking", "indexed"},
    "checkpoint": {"indexed", "tokenizer", "corpus"},
    "launch": {"masking", "indexed", "tokenizer", "datasets", "checkpoint"},
    "training": {"masking", "indexed", "tokenizer", "datasets", "checkpoint", "launch"},
    "monitoring": {"checkpoint"},
    "evaluation": {"masking", "indexed", "tokenizer", "corpus"},
    "report": {"evaluation", "monitoring"},
    "generation": {"checkpoint", "evaluation"},
    "sweep": {"launch", "training"},
    "demo": {"indexed", "tokenizer", "corpus", "datasets", "launch", "training", "report", "starter"},
    "doctor": {"launch", "training"},
    "starter": {"corpus", "doctor"},
    "rehearsal": {"indexed", "datasets", "checkpoint", "launch", "training"},
    "planning": {"indexed", "launch"},  # recipes, what FP8 asks of shapes, and sidecars: none of them imports torch
}
"""Package -> packages of ours that it may import. `cli` may import all, and none may import `cli`."""
OPEN_TO_ALL = {
    "atomic",
    "config",
    "declared",
    "errors",
    "formats",
    "layer_pattern",
    "memory",
    "shipped",
    "terminal",
    "version",
    "_C",
}
"""Modules beside the packages that every package may import."""
READ_NAMESPACE = {
    *("launch.arguments", "launch.external_loader", "launch.sft_settings"),  # the rules of what was parsed
    *("launch.blend", "training.work", "rehearsal.rank_model"),  # call functions of Megatron that take it
    *("training.dataset_settings", "training.model"),  # make Megatron's configurations
    *(
        "training.data",
        "training.metrics_writer",
        "rehearsal.rank_data",
    ),  # read what it holds once a checkpoint is loaded
    "training.patches.everywhere",  # replaces a function that takes it
}
"""Modules with a function of which `args`, Megatron's namespace, is a parameter; others are given values by name."""
LIGHT = {"config", "indexed", "tokenizer", "corpus", "launch", "monitoring", "planning", "report", "sweep"}
"""What is imported without torch and Megatron."""
PROGRAM = "cli.main"
"""What a user starts: `sweep` and `demo` start it by name, as users do. It imports verbs only when one is typed."""


def modules(folder: Path) -> dict[str, Path]:
    """Return the modules below a package's folder: "corpus.sft.shard" -> file; a package is its __init__.py."""
    names = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def needs(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules that a file imports anywhere, or names in a string: those that it starts."""
    own = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        candidates: list[list[str]] = []
        if isinstance(node, ast.Import):
            candidates = [[a.name] for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = own.split(".")[: len(own.split(".")) - node.level + 1] if own else []
                base = ".".join([PACKAGE.name, *above, *([node.module] if node.module else [])])
            candidates = [[f"{base}.{a.name}", base] for a in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            candidates = [[node.value]]
        for spellings in candidates:
            ours = [word.removeprefix(f"{PACKAGE.name}.") for word in spellings if word.startswith(f"{PACKAGE.name}.")]
            found |= {next((word for word in ours if word in known), name)}
    return found - {name}


def room(module: str) -> str:
    """Return the package of a module, or the module beside the packages."""
    return module.partition(".")[0]


KNOWN = modules(PACKAGE)
NEEDS = {name: needs(name, path, KNOWN) for name, path in KNOWN.items()}
PACKAGES = {room(name) for name, path in KNOWN.items() if path.name == "__init__.py"} - {""}


def test_every_package_has_its_place() -> None:
    assert PACKAGES - {"cli"} == set(ALLOWED)
    tuple(graphlib.TopologicalSorter(ALLOWED).static_order())  # raises CycleError


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    allowed = ALLOWED[package] | OPEN_TO_ALL | {package, ""}
    wrong = [
        f"{name} -> {needed}"
        for name in KNOWN
        if room(name) == package
        for needed in NEEDS[name]
        if room(needed) not in allowed and needed != PROGRAM
    ]
    assert not wrong


def test_what_is_open_to_all_needs_no_package_but_masking() -> None:
    assert {room(needed) for name in OPEN_TO_ALL - {"_C"} for needed in NEEDS[name]} <= OPEN_TO_ALL | {"masking"}


@pytest.mark.parametrize("package", ["launch", "training", "rehearsal"])
def test_megatrons_namespace_is_read_at_the_boundary_only(package: str) -> None:
    takes = {
        name
        for name, path in KNOWN.items()
        if room(name) == package
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and any(a.arg == "args" for a in (*node.args.args, *node.args.kwonlyargs))
    }
    assert takes == {name for name in READ_NAMESPACE if room(name) == package}


def test_no_two_files_need_each_other() -> None:
    graph = {name: needed - {PROGRAM} for name, needed in NEEDS.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the files


@pytest.mark.parametrize(
    "back",
    [
        "import meap_megatron.a",
        "def f():\n    from meap_megatron import a",
        "def f():\n    from . import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from meap_megatron.a import A",
        'COMMAND = ["python", "-m", "meap_megatron.a"]',
    ],
    ids=["at the top", "in a function", "relative", "for types", "by name"],
)
def test_every_way_to_need_a_file_is_seen(tmp_path: Path, back: str) -> None:
    for name, text in (("__init__", ""), ("a", "from meap_megatron.b import B"), ("b", back)):
        (tmp_path / f"{name}.py").write_text(text)
    known = modules(tmp_path)
    graph = {name: needs(name, path, known) for name, path in known.items()}
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(graph).static_order())


def test_files_of_one_name_are_told_apart() -> None:
    assert {"corpus.shard", "corpus.sft.shard"} <= set(KNOWN)
    assert NEEDS["corpus.sft.shard"] >= {"corpus.shard", "corpus.sft.records_reader"}


def test_no_module_has_the_name_of_two_others_and_no_class_that_of_another() -> None:
    files = Counter(path.name for path in KNOWN.values() if path.name not in ("__init__.py", "__main__.py"))
    assert not {name for name, times in files.items() if times > 2}
    classes = Counter(
        node.name
        for path in KNOWN.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert not {name for name, times in classes.items() if times > 1}


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
        "; ".join(f"import meap_megatron.{name}" for name in KNOWN if room(name) in LIGHT),
        "from meap_megatron.cli.main import main; main(['--help'])",
        "from meap_megatron.training import metrics",
    ],
    ids=["masking", "light packages", "help", "metrics"],
)
def test_the_light_parts_import_without_torch_and_megatron(statement: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; sys.modules['megatron'] = None; {statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_verb_explains_itself_without_torch() -> None:
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
