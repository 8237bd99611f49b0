"""`precision:` of a recipe as Megatron's flags, and what the 8-bit formats forbid or ask of shapes, before anything starts.

| precision      | matrix products                     | scale                          | multiples of | GPU       |
| -------------- | ----------------------------------- | ------------------------------ | ------------ | --------- |
| fp32           | float32                             | -                              | 1            | any, CPU  |
| bf16           | bfloat16                            | -                              | 1            | any, CPU  |
| fp8-delayed    | e4m3 forward, e5m2 backward         | per tensor, of earlier steps   | 16           | Ada, H100 |
| fp8-tensorwise | e4m3 forward, e5m2 backward         | per tensor                     | 16           | Ada, H100 |
| fp8-blockwise  | e4m3                                | per 1 x 128 and 128 x 128      | 128          | H100      |
| mxfp8          | e4m3                                | per 32 values, a power of two  | 32           | Blackwell |

With bf16 and FP8, master weights and the optimizer stay in float32; with FP8, everything outside the matrix products of
the layers is bfloat16, and so is validation (evaluation_precision.py). Formats and history length are Transformer
Engine's own defaults for each recipe. Settings have Megatron's names (`fp8_format`, `fp8_recipe`, ...):
`meap train --dry-run` shows what is added.
"""

from collections.abc import Mapping
from typing import Any

from meap_megatron.errors import UserError

FROZEN_GRAPHS = ("local", "full_iteration")
"""Kinds of CUDA graphs that Megatron captures for evaluation too, with the precision inside."""

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "fp8-delayed": {
        "bf16": True,
        "fp8_format": "hybrid",
        "fp8_recipe": "delayed",
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
    },
    "fp8-tensorwise": {"bf16": True, "fp8_format": "hybrid", "fp8_recipe": "tensorwise"},
    "fp8-blockwise": {"bf16": True, "fp8_format": "e4m3", "fp8_recipe": "blockwise"},
    "mxfp8": {"bf16": True, "fp8_format": "e4m3", "fp8_recipe": "mxfp8"},
}
"""Name -> settings under Megatron's names."""

DECIDED = ("bf16", "fp16", "fp8_format", "fp8_recipe", "fp4_format")
"""Settings that `precision` decides; a recipe may repeat them, not contradict them."""

MULTIPLES = {"delayed": 16, "tensorwise": 16, "blockwise": 128, "mxfp8": 32}
"""FP8 recipe -> what every dimension of a matrix product must be a multiple of on each rank."""


def settings_for(precision: Any, given: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Return the settings that `precision` adds to those that a recipe gives.

    Args:
        given: the recipe's settings; a value of None counts as absent.
        origin: where the precision is written, for messages.

    Raises:
        UserError: the name is unknown, or a given setting contradicts it.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise UserError(f"{origin}: precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    wanted = PRECISIONS[precision]
    for name in DECIDED:
        value = given.get(name)
        if value is not None and value != wanted.get(name, False):
            raise UserError(
                f"{origin}: precision={precision} contradicts {name}={value!r}",
                fix=f"leave {name} out, or leave precision out (precision=null) and give all of Megatron's own flags",
            )
    return {name: value for name, value in wanted.items() if given.get(name) is None}


def check(settings: Mapping[str, Any]) -> None:
    """Refuse FP8 settings that diverge, are ignored or fail on the GPU; what is absent is not judged.

    Args:
        settings: under Megatron's names in snake_case: a recipe's, or parsed ones.
    """
    if not settings.get("fp8_format"):
        for name in ("fp8_param_gather", "reuse_grad_buf_for_mxfp8_param_ag"):
            if settings.get(name):
                raise UserError(
                    f"{name} needs FP8 training", fix="give precision=mxfp8 or another FP8 precision with it"
                )
        return
    recipe = settings.get("fp8_recipe") or "delayed"  # Megatron's default
    check_pairs(settings, recipe)
    if recipe in MULTIPLES:  # "custom" brings its own rules
        check_shapes(settings, recipe)


def check_pairs(settings: Mapping[str, Any], recipe: str) -> None:
    """Refuse combinations with an FP8 recipe."""
    if settings.get("device") == "cpu" or settings.get("transformer_impl") == "local":
        # Without Transformer Engine, Megatron ignores the flags and trains in bfloat16 without a word.
        raise UserError(
            f"FP8 ({recipe}) needs a GPU and Transformer Engine",
            fix="on a CPU, and with transformer_impl=local, use precision=bf16 or precision=fp32",
        )
    if not settings.get("bf16"):
        raise UserError(
            f"FP8 ({recipe}) keeps weights in bfloat16", fix="give bf16=true with it, or a precision instead of both"
        )
    if recipe == "mxfp8" and settings["fp8_format"] != "e4m3":
        raise UserError(
            f"fp8_recipe=mxfp8 with fp8_format={settings['fp8_format']} diverges: its small blocks need the digits of e4m3, "
            "not the range of e5m2, in the backward pass too",
            fix="use fp8_format=e4m3 (precision=mxfp8 sets it)",
        )
    if recipe == "delayed" and settings.get("first_last_layers_bf16"):
        raise UserError("first_last_layers_bf16 does not go with delayed scaling", fix="use precision=fp8-tensorwise")
    if settings.get("cuda_graph_impl") in FROZEN_GRAPHS:
        raise UserError(
            f"cuda_graph_impl={settings['cuda_graph_impl']} keeps FP8 inside the graphs of validation, which has to run in "
            "bfloat16",
            fix="use cuda_graph_impl=transformer_engine, which draws graphs for training only",
        )
    if settings.get("reuse_grad_buf_for_mxfp8_param_ag") and not (
        recipe == "mxfp8" and settings.get("fp8_param_gather")
    ):
        raise UserError("reuse_grad_buf_for_mxfp8_param_ag needs precision=mxfp8 and fp8_param_gather=true")


def check_shapes(settings: Mapping[str, Any], recipe: str) -> None:
    """Refuse shapes that the matrix products of an FP8 recipe cannot take."""
    multiple = MULTIPLES[recipe]
    wrong = [
        text if text.endswith(f" {size}") else f"{text} = {size / ranks:g}"
        for text, size, ranks in dimensions(settings)
        if size % (ranks * multiple) != 0
    ]
    if wrong:
        raise UserError(
            f"FP8 ({recipe}) needs every dimension of a matrix product to be a multiple of {multiple} on each rank; these "
            f"are not: {'; '.join(wrong)}",
            fix="change them, split them over fewer ranks, or use a precision with a smaller multiple (fp8-delayed and "
            "fp8-tensorwise 16, mxfp8 32, fp8-blockwise 128, bf16 none)",
        )


def dimensions(settings: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return the dimensions of the layers' matrix products that the settings tell.

    Given hidden 1024, FFN 2736, 16 heads, 2 groups, sequence 4096, micro-batch 1, TP 2 and sequence parallel
    then  1024 / 1, 2736 / 2, heads x channels 1024 / 2, query + key + value 1280 / 2, tokens 4096 / 2.

    Returns:
        (description, size, ranks it is split over) for each.
    """
    found: list[tuple[str, int, int]] = []
    tensor = whole(settings, "tensor_model_parallel_size") or 1
    context = whole(settings, "context_parallel_size") or 1
    by_tensor = f" / TP {tensor}" if tensor > 1 else ""
    hidden, heads = whole(settings, "hidden_size"), whole(settings, "num_attention_heads")
    if hidden:
        found.append((f"hidden_size {hidden}", hidden, 1))
    if ffn := whole(settings, "ffn_hidden_size"):
        found.append((f"ffn_hidden_size {ffn}{by_tensor}", ffn, tensor))
    if hidden and heads:
        channels = whole(settings, "kv_channels") or hidden // heads
        groups = (whole(settings, "num_query_groups") if settings.get("group_query_attention") else None) or heads
        found.append((f"heads x channels {heads} x {channels}{by_tensor}", heads * channels, tensor))
        text = f"(heads + 2 x groups) x channels ({heads} + 2 x {groups}) x {channels}{by_tensor}"
        found.append((text, (heads + 2 * groups) * channels, tensor))
    sequence, micro_batch = whole(settings, "seq_length"), whole(settings, "micro_batch_size")
    if sequence and micro_batch:
        by_sequence = tensor if settings.get("sequence_parallel") else 1
        text = f"seq_length x micro_batch_size {sequence} x {micro_batch}"
        text += f" / TP {tensor} (sequence_parallel)" if by_sequence > 1 else ""
        text += f" / CP {context}" if context > 1 else ""
        found.append((text, sequence * micro_batch, by_sequence * context))
    vocabulary = whole(settings, "padded_vocab_size")
    if vocabulary and settings.get("fp8_output_proj"):
        # Only then is the head's matrix product one of FP8.
        found.append((f"vocabulary {vocabulary}{by_tensor}", vocabulary, tensor))
    return found


def whole(settings: Mapping[str, Any], name: str) -> int | None:
    """Return a setting as a whole number, None if it is absent or none (its own check names that)."""
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
