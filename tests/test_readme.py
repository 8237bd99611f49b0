"""The README's make targets and tree are there, and folders' pages list their files. Its commands: tests/docs."""

import re
from pathlib import Path

import pytest

from tests.support.runs import ROOT
from tests.test_imports import PACKAGE

README = (ROOT / "README.md").read_text()


def test_the_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+) ", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_fast_tests_are_there_and_of_every_package() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    fast = re.findall(r"tests/\S+", re.findall(r"^FAST := (.*)$", makefile, flags=re.MULTILINE)[0])
    assert all((ROOT / path).exists() for path in fast)
    tested = {Path(path).parts[1] for path in fast}
    assert {path.parent.name for path in (ROOT / "meap_megatron").glob("*/__init__.py")} <= tested


def test_the_tree_names_every_package_and_folder() -> None:
    tree = README[README.index("```\nmeap_megatron/") :].split("```")[1]
    inside, _, beside = tree.partition("csrc/")
    assert set(re.findall(r"^  (\w+)/", inside, flags=re.MULTILINE)) == {
        path.parent.name for path in (ROOT / "meap_megatron").glob("*/__init__.py")
    }
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", beside, flags=re.MULTILINE))


MANY = 8


def files_of(folder: Path) -> set[str]:
    """Return the Python files of a folder, and the packages in it with a slash."""
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    return {path.name for path in folder.glob("*.py") if path.name != "__init__.py"} | packages


def listed(page: str) -> list[str]:
    """Return what the first cells of a page's file table name."""
    table = re.search(r"^\| file \| holds \|\n\| --- \| --- \|\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    rows = table.group(1).splitlines() if table else []
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


FOLDERS = sorted(
    path.parent for path in PACKAGE.rglob("__init__.py") if len(list(path.parent.glob("*.py"))) > MANY + 1
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_folder_of_many_files_has_a_page_that_lists_them(folder: Path) -> None:
    names = listed((folder / "README.md").read_text(encoding="utf-8"))
    assert len(names) == len(set(names))
    unlisted, gone = files_of(folder) - set(names), set(names) - files_of(folder)
    assert not unlisted and not gone, f"the file table of {folder / 'README.md'} lacks {unlisted}, and lists {gone}"


@pytest.mark.parametrize("page", sorted(PACKAGE.rglob("README.md")), ids=lambda page: str(page.relative_to(PACKAGE)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:\.\./)*[\w/]+\.py)`", page.read_text(encoding="utf-8"))
    assert named
    assert not [name for name in named if not any((base / name).is_file() for base in (page.parent, PACKAGE))]
