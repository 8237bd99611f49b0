"""Every folder of the package with more than eight files has a page that lists them all, and only them."""

import re
from pathlib import Path

import pytest

from tests.test_imports import PACKAGE

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
    assert set(names) == files_of(folder)


@pytest.mark.parametrize("page", sorted(PACKAGE.rglob("README.md")), ids=lambda page: str(page.relative_to(PACKAGE)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:\.\./)*[\w/]+\.py)`", page.read_text(encoding="utf-8"))
    assert named
    assert not [name for name in named if not any((base / name).is_file() for base in (page.parent, PACKAGE))]
