"""mkdocs hook: pages of the site whose source stands elsewhere in the repository, so that each text exists once."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
WHOLE = {
    "recipes.md": "examples/recipes/README.md",
    "samples.md": "meap_megatron/datasets/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Page of the site -> the file it is."""
GUARANTEES = ("What is guaranteed, and how it is tested", "What is measured", "Limits, plainly")
"""Sections of the README that make the page guarantees.md."""


def section(text: str, title: str) -> str:
    """Return a second-level section of a page, from its heading to the next."""
    start = text.index(f"## {title}\n")
    end = text.find("\n## ", start)
    return text[start : len(text) if end < 0 else end + 1]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, with links into docs/ made relative to the site."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in WHOLE.items()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages["guarantees.md"] = "# What is guaranteed\n\n" + "\n".join(section(readme, title) for title in GUARANTEES)
    for page, text in pages.items():
        text = re.sub(r"\]\((?:\.\./)*docs/", "](", text).replace("](benchmarks)", "](benchmarks/README.md)")
        files.append(File.generated(config, page, content=text))
    return files
