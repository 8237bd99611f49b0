"""What one layer keeps for its backward pass, counted tensor by tensor.

After Korthikanti et al. 2022 (arXiv:2205.05198), section 4.1, whose layer (GeLU, dropout, f = 4 h, heads x channels
= h) keeps s b h (34 + 5 a s / h) bytes. Fused attention keeps no scores (the 5 a s / h), and the models here have no
dropout, but SwiGLU and grouped keys and values. Megatron's `theoretical_memory_usage` takes 18 + 4 f / h bytes for
all of it: close for f = 2.7 h, and less than what is kept for wider feed-forward layers, where SwiGLU keeps 6 f
bytes and not 4 f.
"""

from dataclasses import replace

from meap_megatron.planning.layout import FULL, NONE, SELECTIVE, PlannedLayout
from meap_megatron.planning.model_shape import Model

BF16 = 2
FP32 = 4


def kept_per_token(model: Model) -> dict[str, float]:
    """Return the numbers per token that a layer of Transformer Engine keeps, by tensor, before any split."""
    h, q, kv = model.hidden_size, model.attentions * model.query_size, model.attentions * model.key_value_size
    return {
        "inputs of the norms": model.sublayers * h,
        "outputs of the norms": model.sublayers * h,
        "query, key, value": q + 2 * kv,
        "inputs of the norms of query and key": q + kv if model.qk_norm else 0,
        "output of attention": q,
        # one in float32 per head counts as two
        "softmax statistics": 2 * model.attentions * model.num_attention_heads,
        "output of the first linear layer": model.feed_forwards * model.ffn_inputs,
        "input of the second linear layer": model.feed_forwards * model.ffn_hidden_size,
        # The kernels of mamba-ssm keep the input projection and what the scan gives, and compute the rest again; behind them
        # lie the inputs of norm and output projection. Counted from its source, measured nowhere; gated delta nets alike.
        "recurrent layers": sum(one.inputs + 3 * one.inner for one in model.recurrents),
    }


BETWEEN = ("inputs of the norms", "outputs of the norms")
"""What tensor parallel splits only with sequence parallel."""
FEED_FORWARD = ("output of the first linear layer", "input of the second linear layer")
"""What the recomputation of the feed-forward part does away with."""


def layer_bytes(model: Model, layout: PlannedLayout, *, seq_length: int) -> float:
    """Return the bytes that one layer keeps per micro-batch on each rank, in bfloat16.

    Tensor parallel splits what lies inside attention and feed-forward part, sequence parallel the rest too
    (Korthikanti et al. 2022, table 2); context parallel splits the sequence. Recomputation keeps the input of what
    is computed again.
    """
    tokens = seq_length * layout.micro_batch / layout.context
    narrow = layout.tensor if layout.sequence_parallel else 1
    if layout.recompute == FULL:
        return BF16 * tokens * model.hidden_size / narrow
    dropped = FEED_FORWARD if layout.recompute == SELECTIVE else ()
    numbers = sum(
        count / (narrow if name in BETWEEN else layout.tensor)
        for name, count in kept_per_token(model).items()
        if name not in dropped
    )
    return BF16 * tokens * numbers


def recomputed_bytes(model: Model, layout: PlannedLayout, *, seq_length: int) -> float:
    """Return the bytes that exist for a moment while one layer is computed again."""
    whole = replace(layout, recompute=NONE)
    return layer_bytes(model, whole, seq_length=seq_length) - layer_bytes(model, layout, seq_length=seq_length)


def head_bytes(model: Model, layout: PlannedLayout, *, seq_length: int) -> float:
    """Return the bytes that the final norm and the loss keep: its input and output, and the softmax in float32.

    As in Megatron's `compute_activation_memory`: 4 s b h (1 + V / h), split by tensor parallel.
    """
    tokens = seq_length * layout.micro_batch / layout.context
    narrow = layout.tensor if layout.sequence_parallel else 1
    return tokens * (2 * BF16 * model.hidden_size / narrow + FP32 * model.vocabulary / layout.tensor)
