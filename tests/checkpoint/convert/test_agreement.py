"""Two sides agree where all positions do, or where rounding is magnified at one of many, and nowhere else."""

import pytest
import torch

from meap_megatron.checkpoint.convert.agreement import compare
from tests.support.hf_models import write_model


def compared(tmp_path, change):
    from meap_megatron.checkpoint.convert.hf_config import read_config, spec_from_config

    spec = spec_from_config(read_config(write_model(tmp_path / "m", "llama2", vocab_size=64)), source="m", allowed=())
    logits = torch.linspace(-20, 20, 64).expand(128, 64).clone()
    other = logits.clone()
    change(other)
    hidden = [torch.ones(2)] * (spec.num_layers + 1)
    sides = [[{"logits": one, "hidden": hidden}] for one in (logits, other)]
    return compare(*sides, spec=spec, sequences=[{"positions": list(range(128))}])


@pytest.mark.parametrize(
    "where, by, agrees",
    [
        (slice(0, 128), 5e-4, True),  # 2.5e-5 of the largest logit, everywhere
        (slice(32, 33), 2e-3, True),  # 1e-4 at one of 128 positions
        (slice(32, 33), 2e-2, False),  # 1e-3 is too much also at one
        (slice(0, 3), 2e-3, False),  # 1e-4 at three
        (slice(64, 128), 2e-3, False),  # what is wrong behind a position
    ],
)
def test_sides_agree_up_to_rounding(tmp_path, where: slice, by: float, agrees: bool) -> None:
    def change(logits: torch.Tensor) -> None:
        logits[where, 5] += by

    result = compared(tmp_path, change)
    assert result.agrees == agrees and ("magnified at 1 position" in result.line()) == (agrees and by == 2e-3)
    assert not compared(tmp_path, lambda logits: logits[3].fill_(float("nan"))).agrees
