"""Loads or runs a script of benchmarks/: the folder is no package."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """Return benchmarks/NAME.py as a module."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # the scripts import each other by their plain names
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_quick(name: str, *arguments: str) -> dict[str, Any]:
    """Run `benchmarks/NAME.py --quick` on one thread; return the document on its last line."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MEAP_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert document["quick"] is True
    return document
