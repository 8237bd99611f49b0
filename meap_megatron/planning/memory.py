"""Memory of one rank, part by part, and Megatron's own figure beside it."""

from dataclasses import dataclass

from meap_megatron.planning.activations import BF16, head_bytes, layer_bytes, recomputed_bytes
from meap_megatron.planning.layout import NONE, PlannedLayout
from meap_megatron.planning.model_shape import Model

RUNTIME = 2.0e9
"""Bytes of the CUDA context, of NCCL's channels and of workspaces: an allowance, not a count."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the ranks of one pipeline stage."""

    stage: int
    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    """Final norm and loss, on the last stage."""
    buffers: float
    """Besides: logits in bfloat16, a layer that is computed again, 8-bit weights, the runtime."""

    @property
    def counted(self) -> float:
        """What Megatron's `theoretical_memory_usage` counts too: all but the buffers."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits

    @property
    def total(self) -> float:
        """All of it."""
        return self.counted + self.buffers


def stage_parameters(model: Model, layout: PlannedLayout, stage: int) -> tuple[float, float]:
    """Return the parameters of each rank of a stage: all, and of those the matrices of its layers.

    The first stage has the embedding, the last the output layer (with tied tables, a copy of the embedding) and the
    norm.
    """
    layers = layout.stage_layers(model.num_layers, stage)
    matrices = layers * model.layer_matrices / layout.tensor
    count = matrices + layers * (model.layer_split_biases / layout.tensor + model.layer_replicated)
    first, last = stage == 0, stage == layout.pipeline - 1
    tables = int(first) + int(last)
    if first and last and model.tied:
        tables = 1
    count += tables * model.table / layout.tensor
    count += model.learned_positions * model.hidden_size if first else 0
    return count + (model.norm if last else 0), matrices


def of_stage(model: Model, layout: PlannedLayout, *, seq_length: int, stage: int, fp8: bool = False) -> Memory:
    """Return the memory of a rank of one stage, for mixed precision in bfloat16.

    Weights 2 bytes, gradients 4, and of the optimizer 12 (float32 weights and both moments), which the distributed
    optimizer splits over all ranks with the same weights: 6 + 12 / d bytes per parameter (Megatron's
    docs/user-guide/features/dist_optimizer.md).
    """
    count, matrices = stage_parameters(model, layout, stage)
    shards = layout.replicas if layout.distributed_optimizer else 1
    per_chunk = layout.stage_layers(model.num_layers, stage) / layout.virtual
    kept = layer_bytes(model, layout, seq_length=seq_length)
    tokens = seq_length * layout.micro_batch / layout.context
    flying = layout.chunks_in_flight(stage)
    activations = flying * per_chunk * kept
    if stage == 0:
        activations += 8 * tokens * min(layout.num_micro_batches, layout.pipeline)  # token ids, int64
    last = stage == layout.pipeline - 1
    buffers = RUNTIME + recomputed_bytes(model, layout, seq_length=seq_length)
    buffers += BF16 * tokens * model.vocabulary / layout.tensor if last else 0
    buffers += 2 * matrices if fp8 else 0  # a copy in 8 bits, and its transpose
    return Memory(
        stage=stage,
        parameters=BF16 * count,
        gradients=4 * count,
        optimizer=12 * count / shards,
        activations=activations,
        logits=head_bytes(model, layout, seq_length=seq_length) if last else 0.0,
        buffers=buffers,
    )


def fullest(model: Model, layout: PlannedLayout, *, seq_length: int, fp8: bool = False) -> Memory:
    """Return the memory of the stage that needs most: the first, the last, or the second (the first may be short)."""
    stages = {0, min(1, layout.pipeline - 1), layout.pipeline - 1}
    return max(
        (of_stage(model, layout, seq_length=seq_length, stage=stage, fp8=fp8) for stage in sorted(stages)),
        key=lambda memory: memory.total,
    )


def megatrons_figure(model: Model, layout: PlannedLayout, *, seq_length: int) -> float | None:
    """Return what Megatron's own formula gives for the first stage in bytes, to compare with `Memory.counted`.

    The formula of `theoretical_memory_usage` with sequence parallel, which takes 18 h + 4 f bytes per token and layer
    whatever is in the feed-forward part; SwiGLU keeps 6 f. It knows no context parallelism: a rank's tokens are meant.

    Returns:
        None for uneven stages, for activations that are computed again and for hybrid models, which it does not know.
    """
    if (model.attentions, model.feed_forwards, model.recurrents) != (1, 1, ()):
        return None
    if layout.recompute != NONE or layout.first_layers is not None or layout.last_layers is not None:
        return None
    count, _ = stage_parameters(model, layout, 0)
    state = count * (BF16 + 4 + 12 / (layout.replicas if layout.distributed_optimizer else 1))
    tokens, stages = seq_length * layout.micro_batch / layout.context, layout.pipeline
    kept = model.num_layers * tokens * (18 * model.hidden_size + 4 * model.ffn_hidden_size)
    kept += stages * tokens * (8 + model.hidden_size)  # token ids, and a dropout that it always counts
    if layout.virtual > 1:
        kept *= 1 + (stages - 1) / (stages * layout.virtual)
    else:
        kept *= min(1, layout.num_micro_batches / stages)
    if stages == 1:
        kept += 4 * tokens * (model.hidden_size + model.vocabulary)
    return state + kept / layout.tensor
