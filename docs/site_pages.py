"""mkdocs hook: pages of the site whose source is elsewhere in the repository, so that each text exists once."""

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


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, with links into docs/ made relative to the site."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in WHOLE.items()}
    for page, text in pages.items():
        text = re.sub(r"\]\((?:\.\./)*docs/", "](", text).replace("](benchmarks)", "](benchmarks/README.md)")
        files.append(File.generated(config, page, content=text))
    return files
