"""What a source distribution and an installation from it hold: everything that git tracks in the package, and it works."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import yaml

from meap_megatron import _C
from meap_megatron.version import __version__

ROOT = Path(__file__).resolve().parents[2]
TOP_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "constraints.txt")


def tracked(*folders: str) -> set[str]:
    """Return the files of folders that belong to the project, new ones that git does not know yet included."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    listed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, timeout=30).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, made in a copy that holds nothing but what git tracks."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("only a checkout knows which files belong to the project")
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in (*tracked("meap_megatron", "csrc", "examples", "tests/test_imports.py"), *TOP_FILES):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    setup(copy, "sdist", "--dist-dir", str(out))
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(out, filter="data")
    return next(path for path in out.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def installed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an installation from the source distribution has it, without the native module."""
    out = tmp_path_factory.mktemp("installed")
    setup(sources, "build_py", "--build-lib", str(out))
    return out


def setup(folder: Path, *words: str) -> None:
    """Run one command of setup.py."""
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", *words], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_source_distribution_has_what_the_package_is_built_from_and_no_other_file(sources: Path) -> None:
    wanted = tracked("csrc", "examples") | set(TOP_FILES)
    found = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file()}
    made = {name for name in found if name in ("PKG-INFO", "setup.cfg") or name.startswith("meap_megatron.egg-info/")}
    assert found - made == wanted | tracked("meap_megatron")


def test_an_installation_has_every_file_of_the_package_and_no_other(installed: Path) -> None:
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert found == tracked("meap_megatron") | {f"meap_megatron/{name}" for name in tracked("examples")}


def test_the_installed_package_runs_without_torch_and_from_its_own_files(installed: Path) -> None:
    native = next(path for suffix in EXTENSION_SUFFIXES if (path := ROOT / f"meap_megatron/_C{suffix}").exists())
    shutil.copy(native, installed / "meap_megatron")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['megatron'] = None\n"
        "import meap_megatron.masking, meap_megatron.indexed.sidecar, meap_megatron.monitoring.status\n"
        "from meap_megatron.launch import recipe\n"
        "from meap_megatron.training import metrics\n"
        "from meap_megatron.report.tables import paper\n"
        "from meap_megatron.cli.main import main\n"
        "assert paper() and main(['--version']) == 0\n"
        "assert main(['chat', 'nothing']) == 2\n"
        "print(meap_megatron.masking.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=installed, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(installed))
    assert "the Python package torch is not installed" in done.stderr and "fix: `meap doctor`" in done.stderr


def test_an_installed_package_does_not_take_the_commit_of_a_users_repository_for_its_own(tmp_path: Path) -> None:
    package = tmp_path / "venv" / "meap_megatron"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "meap_megatron" / "version.py", package)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=theirs"]):
        subprocess.run([*git, *words], check=True, timeout=30)
    found = runpy.run_path(str(package / "version.py"))["git_commit"]
    assert found() is None
    subprocess.run([*git, "init", "--quiet", str(package.parent)], check=True, timeout=30)
    (tmp_path / ".git").rename(tmp_path / "other")
    subprocess.run(
        ["git", "-C", str(package.parent), *git[3:], "commit", "--quiet", "--allow-empty", "--message=ours"],
        check=True,
    )
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found())


def test_the_extras_are_those_of_the_documentation() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == {"eval", "gguf", "hub", "dali", "te", "docs", "dev"}


def test_everything_states_the_version_of_the_package() -> None:
    assert _C.__version__ == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]
