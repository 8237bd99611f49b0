"""A checkpoint continues on the other kind of device, whose random generators have states of another size."""

from argparse import Namespace

import pytest
from megatron.core import dist_checkpointing

from meap_megatron.checkpoint.folder import write_tracker
from meap_megatron.training.generators import of_another_device


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [("gloo", "nccl", True), ("nccl", "gloo", True), ("gloo", "gloo", False), ("nccl", "nccl", False)],
)
def test_states_of_generators_are_left_out_when_the_device_changes(there, here, expected, tmp_path, monkeypatch):
    (tmp_path / "iter_0000004").mkdir()
    write_tracker(tmp_path, 4)
    monkeypatch.setattr(dist_checkpointing, "check_is_distributed_checkpoint", lambda folder: True)
    monkeypatch.setattr(
        dist_checkpointing, "load_common_state_dict", lambda folder: {"args": Namespace(distributed_backend=there)}
    )
    assert of_another_device(tmp_path, None, backend=here) is expected
    assert not of_another_device(tmp_path / "nothing saved", None, backend=here)
