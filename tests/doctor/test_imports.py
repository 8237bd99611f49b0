"""A package that cannot be imported is reported with its reason, and the packages after it are still looked at."""

import time
from pathlib import Path

import pytest

from meap_megatron.doctor import child, imports


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a module of this name which child processes find first."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return make


def test_a_crash_a_raise_and_an_exit_are_told_apart_and_the_rest_is_imported(package) -> None:
    package("first", "__version__ = '1.2'\nprint('first talks')")
    package("crashing", "import os, sys\nprint('bad symbol', file=sys.stderr, flush=True)\nos.abort()")
    package("raising", "import nothing_of_this_name")
    package("leaving", "import os\nos._exit(7)")
    package("stopping", "raise SystemExit('no licence')")
    package("last", "__version__ = '3'")
    found = imports.look(["first", "crashing", "raising", "leaving", "stopping", "last"], timeout=30)
    assert found["first"]["facts"] == {"version": "1.2"}
    assert found["crashing"]["error"] == "the import ended the process: SIGABRT (bad symbol)"
    assert found["raising"]["error"].startswith("ModuleNotFoundError: No module named 'nothing_of_this_name'")
    assert "exit status 7" in found["leaving"]["error"]
    assert found["stopping"]["error"] == "SystemExit: no licence"
    assert found["last"]["facts"] == {"version": "3"}


def test_an_import_that_hangs_ends_after_the_limit_and_leaves_no_process(package, tmp_path: Path) -> None:
    package("hanging", f"import os, time\nopen(r'{tmp_path}/pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    package("last", "__version__ = '3'")
    begun = time.monotonic()
    found = imports.look(["hanging", "last"], timeout=2)
    assert time.monotonic() - begun < 60
    assert found["hanging"]["error"].startswith("the import did not end within 2 s")
    assert found["last"]["facts"] == {"version": "3"}
    assert not Path("/proc", (tmp_path / "pid").read_text(), "cmdline").exists()


def test_what_needs_torch_is_not_tried_when_torch_is_broken(package) -> None:
    package("torch", "raise ImportError('undefined symbol: ncclCommWindowRegister')")
    package("apart", "__version__ = '3'")
    found = imports.look(["torch", "cuda", "megatron", "apart"], timeout=30)
    assert found["torch"]["error"] == "ImportError: undefined symbol: ncclCommWindowRegister"
    assert found["cuda"]["error"] == found["megatron"]["error"] == "not tried, because torch cannot be imported"
    assert found["apart"]["facts"] == {"version": "3"}


def test_a_package_that_works_and_hangs_at_exit_costs_nothing(package) -> None:
    package("late", "import atexit, time\n__version__ = '1'\natexit.register(time.sleep, 600)")
    begun = time.monotonic()
    assert imports.look(["late"], timeout=200) == {"late": {"part": "late", "facts": {"version": "1"}}}
    assert time.monotonic() - begun < 100


def test_the_native_module_and_gigatoken_really_answer() -> None:
    from meap_megatron import __version__

    found = imports.look(["native", "gigatoken"], timeout=60)
    assert found["native"]["facts"] == {"version": __version__}
    assert "facts" in found["gigatoken"]


def test_every_part_that_needs_torch_stands_after_it() -> None:
    order = list(child.PARTS)
    assert all(order.index(name) > order.index("torch") for name in imports.NEEDS_TORCH)


def test_megatron_is_imported_although_transformer_engine_cannot_be_loaded(package, tmp_path: Path) -> None:
    (tmp_path / "transformer_engine").mkdir()
    (tmp_path / "transformer_engine" / "__init__.py").write_text("raise OSError('libcublasLt.so.13 is missing')")
    found = imports.look(["transformer_engine", "megatron"], timeout=120)
    assert found["transformer_engine"]["error"] == "OSError: libcublasLt.so.13 is missing"
    assert found["megatron"]["facts"]["trainer"]
