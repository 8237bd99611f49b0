"""`model: hybrid` of a recipe: the settings of a GPT as Megatron's `HybridModel` wants them.

A block of a GPT is two layers of a hybrid model, attention and feed-forward part (`*-`). So the number of layers becomes a
pattern, the ways to cut layers into pipeline stages become `|` in it, and settings that count layers count twice as many.
"""

from collections.abc import Mapping
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.layer_pattern import of_blocks

MODELS = ("gpt", "hybrid")

COUNTS = ("num_layers", "encoder_num_layers")
FIRST_AND_LAST = ("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers")
TABLES = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
UNEVEN = FIRST_AND_LAST + TABLES
"""Settings that give some stages other layers than the rest."""
CUTS = (*FIRST_AND_LAST, "num_virtual_stages_per_pipeline_rank", "num_layers_per_virtual_pipeline_stage", *TABLES)
"""Settings that say how layers are cut into stages; Megatron refuses them beside a pattern with `|`."""
DOUBLED = ("recompute_num_layers", "num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16")
"""Settings that count layers."""
NO_PATTERN = (
    "pipeline_model_parallel_layout",
    "num_experts",
    "multi_latent_attention",
    "mtp_num_layers",
    "experimental_attention_variant",
    "heterogeneous_layers_config_path",
    "heterogeneous_layers_config_encoded_json",
    "no_rope_freq",
    "window_attn_skip_freq",
)
"""Settings of a GPT that pick out single layers or make another pattern than `*-`."""


def settings_for(model: Any, given: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Return what `model` changes in the settings that a recipe gives; None takes one out.

    Args:
        given: the recipe's settings; a value of None counts as absent.
        origin: where the model is set, for the message.

    Raises:
        UserError: the name is unknown, or the recipe describes a GPT that is not the pattern `*-`.
    """
    if model not in MODELS:
        raise UserError(f"{origin}: model={model!r} is not one of {', '.join(MODELS)}")
    if model == "gpt":
        if given.get("hybrid_layer_pattern") is not None:
            raise UserError(f"{origin}: model=gpt contradicts hybrid_layer_pattern", fix="leave one of them out")
        return {}
    if given.get("hybrid_layer_pattern") is not None:
        return {}
    for name in NO_PATTERN:
        if given.get(name):
            raise UserError(
                f"{origin}: model=hybrid cannot express {name}={given[name]} of a GPT",
                fix=f"give hybrid_layer_pattern and leave {name} out, or use model=gpt",
            )
    changed: dict[str, Any] = {"hybrid_layer_pattern": of_blocks(segments(given, origin=origin))}
    changed |= {name: None for name in (*COUNTS, *CUTS) if given.get(name) is not None}
    changed |= {name: 2 * number(given, name, origin=origin) for name in DOUBLED if given.get(name) is not None}
    if given.get("first_last_layers_bf16"):
        changed = {name: 2 for name in DOUBLED[1:]} | changed  # Megatron's default is one layer at each end
    return changed


def segments(given: Mapping[str, Any], *, origin: str) -> list[int]:
    """Return the blocks of every pipeline segment, in the order of a pattern, as Megatron would cut a GPT.

    Given 8 layers, pipeline 2 and 2 virtual stages, then [2, 2, 2, 2]; given 7 layers, pipeline 2 and the loss counted as a
    layer, then [4, 3].

    Raises:
        UserError: no number of layers is given, or they cannot be cut.
    """
    layers = next((number(given, name, origin=origin) for name in COUNTS if given.get(name) is not None), None)
    if layers is None:
        raise UserError(
            f"{origin}: model=hybrid makes a pattern of num_layers, which is not given", fix="set num_layers"
        )
    pipeline = number(given, "pipeline_model_parallel_size", origin=origin)
    first, last = (number(given, name, origin=origin, default=0) for name in CUTS[:2])
    tables = [int(bool(given.get(name))) for name in CUTS[4:]]
    counted = layers + sum(tables)
    inner = pipeline - bool(first) - bool(last)
    middle, left = divmod(counted - first - last, inner) if inner > 0 else (0, counted - first - last)
    stages = [first or middle, *[middle] * (pipeline - 2), last or middle] if pipeline > 1 else [counted]
    virtual = number(given, CUTS[2], origin=origin)
    if given.get(CUTS[3]) is not None:
        size = number(given, CUTS[3], origin=origin)
        virtual, left = middle // size, left + middle % size
    asked = [name for name in CUTS[:4] if given.get(name) is not None]
    if left or middle < 0 or (pipeline == 1 and asked) or any(stage % virtual for stage in stages if virtual):
        cut = ", ".join(f"{name}={given[name]}" for name in ("pipeline_model_parallel_size", *CUTS) if given.get(name))
        raise UserError(
            f"{origin}: num_layers={layers} cannot be cut into whole blocks by {cut}",
            fix="change num_layers or the layout",
        )
    parts = [stage // virtual for _ in range(virtual) for stage in stages]
    parts[0] -= tables[0]
    parts[-1] -= tables[1]
    return parts


def number(given: Mapping[str, Any], name: str, *, origin: str, default: int = 1) -> int:
    """Return a setting as a whole number, `default` if it is absent.

    Raises:
        UserError: it is anything else.
    """
    value = given.get(name)
    if value is None:
        return default
    try:
        found = int(float(value))  # YAML reads 1e1 as text
    except (TypeError, ValueError, OverflowError):
        found = 0
    if isinstance(value, bool) or found < 1 or found != float(value):
        raise UserError(f"{origin}: {name}={value!r} must be a whole number above 0")
    return found
