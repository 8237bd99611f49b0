"""The site holds every page, and the troubleshooting table quotes messages that the program really gives."""

import ast
import re
from functools import cache
from pathlib import Path

import yaml

from tests.support.runs import ROOT

DOCS = ROOT / "docs"


@cache
def texts_of_the_program() -> tuple[str, ...]:
    """Return every string constant of the package, parts of f-strings among them."""
    found: set[str] = set()
    for path in (ROOT / "meap_megatron").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return tuple(found)


def test_every_message_in_the_troubleshooting_table_is_one_of_the_programs() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    quoted = [part for row in rows if "Megatron's own" not in row for part in re.findall(r"`([^`]+)`", row)]
    assert len(rows) > 40
    missing = [part for part in quoted if not any(part in text for text in texts_of_the_program())]
    assert not missing


def test_every_page_stands_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/.-]+\.md", yaml.dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert there <= listed
    source = (DOCS / "site_pages.py").read_text(encoding="utf-8")
    assert all(f'"{page}"' in source for page in listed - there), "made by the hook"


def test_links_between_files_lead_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "examples/recipes/README.md"]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            made = Path(target).name in (DOCS / "site_pages.py").read_text(encoding="utf-8")
            assert made or (page.parent / target).exists(), f"{page}: {target}"
