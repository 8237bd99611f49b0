"""`meap report` as a fixture."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main


@pytest.fixture
def report(tmp_path: Path) -> Any:
    """Run `meap report` and return the page."""

    def run(*words: str | Path, status: int = 0) -> str:
        out = tmp_path / "page" / "report.html"
        assert main(["report", *map(str, words), "--out", str(out), "--overwrite"]) == status
        return out.read_text() if status == 0 else ""

    return run
