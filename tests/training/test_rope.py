"""The base is read from Megatron's own rotary embedding, and a model or a checkpoint with another one is refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import megatron_import

megatron_import.import_megatron()

from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding  # noqa: E402

from meap_megatron.launch.named_settings import of_command_line  # noqa: E402
from meap_megatron.training.rope import RotarySettings, check_asked, check_built, complete_rotary, effective_base  # noqa: E402


def embedding(base: int, **more: Any) -> Any:
    return RotaryEmbedding(64, 1.0, rotary_base=base, use_cpu_initialization=True, **more)


@pytest.mark.parametrize("base", [10_000, 640_000, 5_000_000])
@pytest.mark.parametrize("factor", [None, 8.0, 32.0])
def test_the_base_is_read_back_from_megatrons_frequencies(base: int, factor: float | None) -> None:
    scaling = {} if factor is None else {"rope_scaling": True, "rope_scaling_factor": factor}
    frequencies = embedding(base, **scaling).inv_freq
    assert effective_base(frequencies, scaled=factor is not None) == pytest.approx(base, rel=1e-5)


def test_frequencies_of_no_single_base_are_an_error() -> None:
    scaled = embedding(10_000, rope_scaling=True).inv_freq
    with pytest.raises(RunError, match="not those of one base"):
        effective_base(scaled, scaled=False)


def rotary(**more: Any) -> RotarySettings:
    given = {
        "position_embedding_type": "rope",
        "multi_latent_attention": False,
        "use_rope_scaling": False,
        "rope_scaling_factor": 8.0,
        "rotary_base": 640_000,
        "rotary_percent": 1.0,
        "max_position_embeddings": 65_536,
        "seq_length": 65_536,
        "rotary_interleaved": False,
        "rotary_seq_len_interpolation_factor": None,
        "rotary_scaling_factor": 1.0,
    }
    return RotarySettings(**given | more)


def test_a_model_built_with_another_base_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    hook = check_built(rotary(), rank=0)
    right, wrong = (SimpleNamespace(rotary_pos_emb=embedding(base)) for base in (640_000, 10_000))
    assert hook([right]) == [right]
    assert "rotary base of the built model 640,000; up to 65,536 positions" in capsys.readouterr().out
    with pytest.raises(RunError, match="built with the rotary base 10,000 instead of 640,000"):
        hook([right, wrong])  # one part per virtual pipeline stage


def test_the_command_line_is_compared_with_what_the_checkpoint_brought() -> None:
    check_asked(of_command_line(["--use-checkpoint-args", "--rotary-base=640000"]), rotary())
    check_asked(of_command_line(["--use-checkpoint-args"]), rotary())
    check_asked(of_command_line(["--rotary-base", "1"]), rotary())
    for argv in (["--rotary-base=10000"], ["--rotary-base", "10000", "--bf16"], ["--rotary-percent", "0.5"]):
        with pytest.raises(UserError, match="use_checkpoint_args takes the checkpoint's"):
            check_asked(of_command_line(["--use-checkpoint-args", *argv]), rotary())


@pytest.mark.parametrize("change", [{}, {"use_rope_scaling": True}, {"rotary_interleaved": True}])
def test_a_hybrid_model_gets_the_scaling_and_the_order_that_megatron_keeps_from_it(change: dict[str, bool]) -> None:
    plain = embedding(10_000)
    config = SimpleNamespace(kv_channels=64, use_cpu_initialization=True)
    part = SimpleNamespace(rotary_pos_emb=plain, config=config, pg_collection=SimpleNamespace(cp=None))
    complete_rotary(rotary(rotary_base=10_000, rope_scaling_factor=32.0, **change))([part])
    assert (part.rotary_pos_emb is plain) == (not change)
    assert part.rotary_pos_emb.rotary_interleaved == bool(change.get("rotary_interleaved"))
    slower = float(plain.inv_freq[-1] / part.rotary_pos_emb.inv_freq[-1])
    assert slower == pytest.approx(32.0 if change.get("use_rope_scaling") else 1.0)
