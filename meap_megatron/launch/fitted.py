"""What a recipe's settings become where a run cannot use them: on a CPU, in float32, in deterministic mode.

Recipes name what is fastest on GPUs in bfloat16. What another run cannot take is left out, and said; what was asked for on
the command line is kept (bfloat16 on a CPU) or refused (fused cross-entropy).

| setting | left out |
| --- | --- |
| `precision: bf16` | on a CPU, where float32 is several times faster |
| `cross_entropy_loss_fusion` | on a CPU, which has a kernel of its own; without bf16; in deterministic mode |
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.launch.recipe import Recipe

COMMAND_LINE = "override "
"""How the origin of a setting begins that was given on the command line."""
PRECISION = ("precision", "bf16")
FUSED_LOSS = ("cross_entropy_loss_fusion", "cross_entropy_fusion_impl")
SLOW_BF16 = (
    "bfloat16 is several times slower than float32 on a CPU, so this run is float32; precision=bf16 on the command line "
    "keeps bfloat16"
)

ONE_PRECISION = "; without use_distributed_optimizer, its checkpoints continue in float32 only"


def against_fused_loss(given: Mapping[str, Any], device: str | None) -> str | None:
    """Return why a run cannot use Megatron's fused cross-entropy, or None."""
    if device == "cpu":
        return "it is compiled for GPUs, and a CPU has a kernel of its own"
    if given.get("deterministic_mode"):
        return "deterministic_mode forbids it"
    return None if given.get("bf16") else "its gradient is bfloat16, and this run is not"


def fitted(recipe: Recipe, device: str | None) -> tuple[Recipe, list[str]]:
    """Return a recipe without what its run cannot use, and a sentence on what a user would want to know of it.

    Args:
        device: "cpu" or "cuda"; None: not known yet, so only what holds on both is left out.

    Raises:
        UserError: fused cross-entropy was asked for on the command line, and the run cannot use it.
    """
    given = {key: setting.value for key, setting in recipe.resolved().items()}
    dropped: tuple[str, ...] = ()
    notes = []
    if device == "cpu" and given.get("bf16") and not given.get("fp8_format") and not asked_for(recipe, *PRECISION):
        dropped += PRECISION
        notes.append(SLOW_BF16 + ("" if given.get("use_distributed_optimizer") else ONE_PRECISION))
    name = FUSED_LOSS[0]
    reason = against_fused_loss(given, device) if given.get(name) else None
    if reason:
        if asked_for(recipe, name):
            raise UserError(f"{recipe.settings[name].origin}: this run cannot use it: {reason}")
        dropped += FUSED_LOSS
        if device != "cpu":
            notes.append(f"{name} is left out: {reason}")
    return replace(recipe, settings={key: one for key, one in recipe.settings.items() if key not in dropped}), notes


def asked_for(recipe: Recipe, *names: str) -> bool:
    """Tell whether one of these settings was given on the command line."""
    return any(recipe.settings[name].origin.startswith(COMMAND_LINE) for name in names if name in recipe.settings)


def without_fused_loss(argv: list[str], *, device: str) -> list[str]:
    """Return the command line without the fused cross-entropy where it cannot be used (`against_fused_loss`)."""
    given = {"bf16": "--bf16" in argv, "deterministic_mode": "--deterministic-mode" in argv}
    if against_fused_loss(given, device) is None:
        return argv
    return [argument for argument in argv if argument != "--cross-entropy-loss-fusion"]
