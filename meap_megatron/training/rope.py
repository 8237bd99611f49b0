"""The rotary base that a run really has: read back from the built model, and guarded against a checkpoint's old one.

A longer context needs a larger base (protocol section 4: 640,000 for 65,536 positions). The weights do not hold it, so a
model that was built with the old one loads without complaint and trains on the wrong positions.
"""

from collections.abc import Callable
from typing import Any

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch.named_settings import Settings

TOLERANCE = 1e-4  # relative; the frequencies are float32
FORCED = ("rotary_base", "rotary_percent")
"""What `--use-checkpoint-args` sets without regard to the command line, and what decides the frequencies."""


def check_asked(args: Any, settings: Settings) -> None:
    """Refuse a run in which `--use-checkpoint-args` has replaced what the command line asks for.

    Args:
        settings: of the command line that they came from.
    """
    if not args.use_checkpoint_args:
        return
    for name in FORCED:
        given, effective = settings.number(name), getattr(args, name)
        if given is not None and given != float(effective):
            raise UserError(
                f"{name}={settings.get(name)} was asked for, but use_checkpoint_args takes the checkpoint's, {effective}; "
                "leave use_checkpoint_args out (a recipe names the whole model), or give the checkpoint's value"
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


def check_built(args: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a hook for `GPTModelConfig.pre_wrap_hooks` that compares the built model with the arguments.

    The hook takes the model's parts on this rank, and raises `RunError` if their rotary base is not `args.rotary_base`.
    """

    def check(parts: list[Any]) -> list[Any]:
        if args.position_embedding_type not in ("rope", "yarn") or args.multi_latent_attention:
            return parts
        for part in parts:
            # YaRN's embedding keeps the frequencies of the base and scales them when it is called.
            llama3 = bool(args.use_rope_scaling) and args.position_embedding_type == "rope"
            base = effective_base(part.rotary_pos_emb.inv_freq, scaled=llama3)
            if abs(base - args.rotary_base) > TOLERANCE * args.rotary_base:
                raise RunError(f"the model was built with the rotary base {base:,.0f} instead of {args.rotary_base:,}")
        if args.rank == 0:
            scaling = f", scaled by {args.rope_scaling_factor:g} as Llama 3" if llama3 else ""
            if args.position_embedding_type == "yarn":
                scaling = f", scaled by {args.rotary_scaling_factor:g} as YaRN"
            positions = f"up to {args.max_position_embeddings:,} positions, sequences of {args.seq_length:,}"
            print(f"meap: rotary base of the built model {base:,.0f}{scaling}; {positions}", flush=True)
        return parts

    return check


def complete_rotary(args: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a hook for `HybridModelConfig.pre_wrap_hooks` that gives the model all that the arguments say of rotation.

    Megatron 0.19 hands neither Llama 3's scaling nor the interleaved layout on to a hybrid model, without a word.
    """

    def complete(parts: list[Any]) -> list[Any]:
        if args.position_embedding_type != "rope" or args.multi_latent_attention:
            return parts
        if not (args.use_rope_scaling or args.rotary_interleaved):
            return parts
        from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

        for part in parts:
            part.rotary_pos_emb = RotaryEmbedding(
                kv_channels=part.config.kv_channels,
                rotary_percent=args.rotary_percent,
                rotary_interleaved=args.rotary_interleaved,
                seq_len_interpolation_factor=args.rotary_seq_len_interpolation_factor,
                rotary_base=args.rotary_base,
                rope_scaling=args.use_rope_scaling,
                rope_scaling_factor=args.rope_scaling_factor,
                use_cpu_initialization=part.config.use_cpu_initialization,
                cp_group=part.pg_collection.cp,
            )
        return parts

    return complete
