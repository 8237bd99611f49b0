"""Conversions in the process of the tests verify with Megatron imported once (tests/support/warm.py)."""

import pytest

from meap_megatron.checkpoint.convert import verifying
from tests.support.warm import start_warm


@pytest.fixture(autouse=True, scope="session")
def warm_verification() -> None:
    start_warm(verifying)
