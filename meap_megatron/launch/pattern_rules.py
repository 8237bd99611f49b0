"""Which layer patterns can be trained, and which settings go with them? Before Megatron is imported; see `rules`."""

import math
from collections.abc import Iterator

from meap_megatron.errors import UserError
from meap_megatron.launch.hybrid import CUTS
from meap_megatron.launch.named_settings import Settings
from meap_megatron.launch.parallelism import divisors
from meap_megatron.layer_pattern import CUT, DELTA_NET, LAYERS, MAMBA, PREDICTORS, layers_of, segments_of

EVERYWHERE = "*-GM"
"""Layers that run without GPU and without Transformer Engine."""


def findings(settings: Settings) -> Iterator[UserError]:
    """Yield what is wrong with a layer pattern, each with key, value, rule and remedy."""
    pattern = settings.get("hybrid_layer_pattern")
    if pattern is None:
        return
    given = f"{settings.where('hybrid_layer_pattern')}hybrid_layer_pattern={pattern}"
    layers = layers_of(str(pattern))
    if unknown := [symbol for symbol in dict.fromkeys(layers) if symbol not in LAYERS]:
        known = ", ".join(f"{symbol} ({what})" for symbol, what in LAYERS.items())
        yield UserError(
            f"{given} contains {unknown[0]!r}; its layers are {known}, and {CUT} cuts it into pipeline stages"
        )
        return
    if PREDICTORS in str(pattern):
        yield UserError(
            f"{given}: multi-token prediction (behind {PREDICTORS}) is not wired into the MEAP step",
            fix="leave it out",
        )
    if not layers:
        yield UserError(f"{given} has no layer; a block of a GPT is *-")
    yield from of_cuts(settings, given, segments_of(str(pattern)))
    if "G" in layers and (missing := [name for name in DELTA_NET if settings.get(name) is None]):
        yield UserError(f"{given}: a gated delta net needs {', '.join(missing)}", fix="set them")
    elif "G" in layers:
        yield from of_delta_net(settings)
    if "M" in layers:
        yield from of_mamba(settings)
    if why := no_engine(settings):
        yield from (UserError(f"{given}: {reason}") for reason in refused_on_cpu(layers, why))


def of_mamba(settings: Settings) -> Iterator[UserError]:
    """Yield sizes of Mamba-2 layers that cannot be built or split, and options that only their kernels have."""
    head, groups = (settings.whole(name, MAMBA[name]) or 1 for name in ("mamba_head_dim", "mamba_num_groups"))
    heads, inner = settings.whole("mamba_num_heads"), 2 * (settings.whole("hidden_size") or 0)
    if heads is None and inner % head:
        yield UserError(
            f"{settings.where('mamba_head_dim')}mamba_head_dim={head} does not divide 2 x hidden_size = {inner}, the "
            "channels of a Mamba-2 layer",
            fix="change it, or give mamba_num_heads",
        )
    elif (heads := heads or inner // head) % groups:
        yield UserError(
            f"{settings.where('mamba_num_groups')}mamba_num_groups={groups} does not divide the {heads} heads of a Mamba-2 "
            f"layer (mamba_num_heads, or 2 x hidden_size / mamba_head_dim)",
            fix=f"set one of {divisors(heads)}",
        )
    tensor = settings.whole("tensor_model_parallel_size", 1) or 1
    if groups % tensor:
        yield UserError(
            f"{settings.where('mamba_num_groups')}mamba_num_groups={groups} is not divisible by "
            f"tensor_model_parallel_size={tensor}, which splits Mamba-2 layers by groups",
            fix="change one of them",
        )
    if why := no_engine(settings):
        for name in ("mamba_training_ssm_states_dtype", "disable_mamba_mem_eff_path"):
            if settings.has(name):
                yield UserError(
                    f"{settings.quoted(name)} is an option of mamba-ssm's kernels, and {why}", fix="leave it out"
                )


def of_delta_net(settings: Settings) -> Iterator[UserError]:
    """Yield heads of gated delta nets that cannot be shared out."""
    keys, values = (settings.whole(f"linear_num_{name}_heads") or 1 for name in ("key", "value"))
    if values % keys:
        yield UserError(
            f"{settings.quoted('linear_num_value_heads')} must be a multiple of linear_num_key_heads={keys}"
        )
    over = {name: settings.whole(name, 1) or 1 for name in ("tensor_model_parallel_size", "context_parallel_size")}
    if keys % math.prod(over.values()):
        parts = " x ".join(f"{name}={size}" for name, size in over.items())
        yield UserError(
            f"{settings.quoted('linear_num_key_heads')} is not divisible by {parts}, which split heads",
            fix="change one of them",
        )


def refused_on_cpu(pattern: str, why: str) -> Iterator[str]:
    """Yield which layers of a pattern cannot be built without a GPU and Transformer Engine."""
    for symbol in dict.fromkeys(layers_of(pattern)):
        if symbol not in EVERYWHERE:
            yield f"{LAYERS[symbol]} layers ({symbol}) need a GPU and Transformer Engine, and {why}"


def no_engine(settings: Settings) -> str:
    """Return why a run has neither a GPU nor Transformer Engine, "" if it may have both."""
    if "cpu" in (settings.get("device"), settings.get("meap_device")):
        return "device=cpu"
    return "transformer_impl=local" if settings.get("transformer_impl") == "local" else ""


def of_cuts(settings: Settings, given: str, cut: list[str]) -> Iterator[UserError]:
    """Yield what does not go with the pipeline segments of a pattern."""
    pipeline = settings.whole("pipeline_model_parallel_size", 1) or 1
    if len(cut) > 1 and len(cut) % pipeline:
        yield UserError(
            f"{given} has {len(cut)} pipeline segments, which pipeline_model_parallel_size={pipeline} does not divide",
            fix=f"change the {CUT} in it, or the size",
        )
    elif len(cut) > pipeline == 1:
        yield UserError(
            f"{given} has {len(cut)} pipeline segments and pipeline_model_parallel_size is 1",
            fix=f"leave {CUT} out, or raise it",
        )
    elif len(cut) == 1 and len(cut[0]) % pipeline and not settings.has(*CUTS[:2]):
        yield UserError(
            f"{given} has {len(cut[0])} layers, which pipeline_model_parallel_size={pipeline} does not divide",
            fix=f"cut it with {CUT}",
        )
    for name in CUTS[2:] if len(cut) == 1 else CUTS:
        if settings.has(name):
            yield UserError(
                f"{settings.where(name)}{name}={settings.get(name)} does not go with hybrid_layer_pattern, whose {CUT} say "
                f"where stages end",
                fix="leave it out",
            )
