"""Tests that need an NVIDIA GPU; without one each is skipped and says so."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def reason() -> str:
    """Return why nothing here can run, empty if it can."""
    import torch

    if torch.cuda.is_available():
        return ""
    return "needs an NVIDIA GPU, and torch sees none on this machine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where there is no card."""
    here = [item for item in items if HERE in item.path.parents]
    if not here:
        return
    why = reason()
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))
