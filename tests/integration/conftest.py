"""Conversions in the process of the tests verify with Megatron imported once (tests/support/warm.py)."""

import pytest

from tests.support.warm import verify_warm


@pytest.fixture(autouse=True, scope="session")
def warm_verification() -> None:
    verify_warm()
