"""The rotary base that a run really has: read back from the built model, and guarded against a checkpoint's old one.

A longer context needs a larger base (protocol section 4: 640,000 for 65,536 positions). The weights do not hold it, so a
model that was built with the old one loads without complaint and trains on the wrong positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch.named_settings import Settings

TOLERANCE = 1e-4  # relative; the frequencies are float32
FORCED = ("rotary_base", "rotary_percent")
"""What `--use-checkpoint-args` sets without regard to the command line, and what decides the frequencies."""


@dataclass(frozen=True, kw_only=True)
class RotarySettings:
    """What a run says of its rotary embedding, under the names of Megatron's parser."""

    position_embedding_type: str
    multi_latent_attention: bool
    rotary_base: float
    rotary_percent: float
    rotary_interleaved: bool
    rotary_seq_len_interpolation_factor: int | None
    rotary_scaling_factor: float
    use_rope_scaling: bool
    rope_scaling_factor: float
    max_position_embeddings: int
    seq_length: int


def check_asked(settings: Settings, rotary: RotarySettings) -> None:
    """Refuse a run in which `--use-checkpoint-args` has replaced what the command line asks for.

    Args:
        settings: of the command line.
        rotary: what came of it.
    """
    if not settings.on("use_checkpoint_args"):
        return
    for name in FORCED:
        given, effective = settings.number(name), getattr(rotary, name)
        if given is not None and given != float(effective):
            raise UserError(
                f"{name}={settings.get(name)} was asked for, but use_checkpoint_args takes the checkpoint's, {effective}",
                fix="leave use_checkpoint_args out (a recipe names the whole model), or give the checkpoint's value",
            )


def effective_base(inv_freq: Any, *, scaled: bool) -> float:
    """Return the base b of rotary frequencies b^(-2k/d).

    Given  inv_freq = [1, 0.1, 0.01, 0.001] (d = 8)
    then   0.1 ** (-8 / 2) = 10,000, and so from every other frequency but the first.

    Args:
        inv_freq: float32[d / 2], frequencies in radians per position, the highest first.
        scaled: Llama 3's scaling changed the low frequencies; only the highest but one is read then.

    Raises:
        RunError: the frequencies are not those of one base.
    """
    values = inv_freq.double().tolist()
    ranks = range(1, 2 if scaled else len(values))
    bases = [values[k] ** (-len(values) / k) for k in ranks]
    if not bases or max(bases) > min(bases) * (1 + TOLERANCE):
        raise RunError(f"the rotary frequencies of the model are not those of one base: {values}")
    return bases[-1]


def check_built(rotary: RotarySettings, *, rank: int) -> Callable[[list[Any]], list[Any]]:
    """Return a hook for `GPTModelConfig.pre_wrap_hooks` that compares the built model with the settings.

    The hook takes the model's parts on this rank, and raises `RunError` if their rotary base is not that of the settings.
    """

    def check(parts: list[Any]) -> list[Any]:
        if rotary.position_embedding_type not in ("rope", "yarn") or rotary.multi_latent_attention:
            return parts
        for part in parts:
            # YaRN's embedding keeps the frequencies of the base and scales them when it is called.
            llama3 = bool(rotary.use_rope_scaling) and rotary.position_embedding_type == "rope"
            base = effective_base(part.rotary_pos_emb.inv_freq, scaled=llama3)
            if abs(base - rotary.rotary_base) > TOLERANCE * rotary.rotary_base:
                raise RunError(
                    f"the model was built with the rotary base {base:,.0f} instead of {rotary.rotary_base:,}"
                )
        if rank == 0:
            scaling = f", scaled by {rotary.rope_scaling_factor:g} as Llama 3" if llama3 else ""
            if rotary.position_embedding_type == "yarn":
                scaling = f", scaled by {rotary.rotary_scaling_factor:g} as YaRN"
            positions = f"up to {rotary.max_position_embeddings:,} positions, sequences of {rotary.seq_length:,}"
            print(f"meap: rotary base of the built model {base:,.0f}{scaling}; {positions}", flush=True)
        return parts

    return check


def complete_rotary(rotary: RotarySettings) -> Callable[[list[Any]], list[Any]]:
    """Return a hook for `HybridModelConfig.pre_wrap_hooks` that gives the model all that the settings say of rotation.

    Megatron 0.19 hands neither Llama 3's scaling nor the interleaved layout on to a hybrid model, without a word.
    """

    def complete(parts: list[Any]) -> list[Any]:
        if rotary.position_embedding_type != "rope" or rotary.multi_latent_attention:
            return parts
        if not (rotary.use_rope_scaling or rotary.rotary_interleaved):
            return parts
        from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

        for part in parts:
            part.rotary_pos_emb = RotaryEmbedding(
                kv_channels=part.config.kv_channels,
                rotary_percent=rotary.rotary_percent,
                rotary_interleaved=rotary.rotary_interleaved,
                seq_len_interpolation_factor=rotary.rotary_seq_len_interpolation_factor,
                rotary_base=rotary.rotary_base,
                rope_scaling=rotary.use_rope_scaling,
                rope_scaling_factor=rotary.rope_scaling_factor,
                use_cpu_initialization=part.config.use_cpu_initialization,
                cp_group=part.pg_collection.cp,
            )
        return parts

    return complete
