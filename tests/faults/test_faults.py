"""One trial of every kind of fault; `python -m tests.faults` runs as many as asked."""

from pathlib import Path

import pytest

from tests.faults.harness import FAULTS, Workshop, can_mount

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("faults") / "work", seed=7)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_survives(workshop: Workshop, fault: str, tmp_path: Path) -> None:
    if fault == "disk full in save" and not can_mount(tmp_path / "disk"):
        pytest.skip("this machine does not let us mount a small disk")
    trial = workshop.try_once(fault)
    assert trial.passed, trial
