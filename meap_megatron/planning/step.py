"""Time of a training step by arithmetic: matrix products, memory traffic, communication, pipeline bubble.

After Narayanan et al. 2021 (arXiv:2104.04473): section 2.2 for the bubble, (p - 1) / v of m micro-batches, section 3
for what each kind of parallelism sends. Times add up except where Megatron overlaps them; nothing is fitted to a
model or a layout (see `gpus`).
"""

from dataclasses import dataclass

from meap_megatron.planning import gpus
from meap_megatron.planning.gpus import COLLECTIVE_LATENCY, HIDDEN_BY_OVERLAP, LINK_FRACTION, NODE, Gpu
from meap_megatron.planning.layout import FULL, NONE, PlannedLayout
from meap_megatron.planning.memory import stage_parameters
from meap_megatron.planning.model_shape import Model

LOSS_BYTES = 24
"""Per logit, with fused cross-entropy."""
UNFUSED_LOSS_BYTES = 52
"""Per logit without: to float32 6, maximum 4, minus 8, exponential 8, sum 4, division 8, gradient 8, to bfloat16 6."""
NOT_HIDDEN = 0.1
"""Of communication that runs beside computation, and could hide behind it whole: its first and its last piece."""


@dataclass(frozen=True, kw_only=True)
class StepPart:
    """Seconds of one kind of work in one layer and micro-batch."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of one step, and what each rank sends in it."""

    matrices: float
    attention: float
    elementwise: float
    tensor: float
    """Tensor-parallel communication that is not hidden."""
    head: float
    """Output layer and loss, on the last stage, which the others wait for."""
    pipeline: float
    """Messages between stages that are not hidden."""
    recompute: float
    host: float
    """What the host adds where layers are too small for it."""
    bubble: float
    data: float
    """Data-parallel communication that is not hidden."""
    optimizer: float
    rest: float
    sent: dict[str, float]
    """Bytes that a rank sends per step: `tensor`, `context`, `pipeline`, `data`."""

    @property
    def seconds(self) -> float:
        """The step."""
        busy = self.matrices + self.attention + self.elementwise + self.tensor + self.head + self.recompute + self.host
        return busy + self.pipeline + self.bubble + self.data + self.optimizer + self.rest

    @property
    def bubble_fraction(self) -> float:
        """Of the step in which a stage waits for others to fill or empty the pipeline."""
        return self.bubble / self.seconds


def matrix_part(model: Model, gpu: Gpu, layout: PlannedLayout, *, tokens: float, fp8: bool) -> StepPart:
    """Return the time of a layer's matrix products: 2 FLOP per entry and token forward, twice that backward."""
    forward = 2 * tokens * model.layer_matrices / layout.tensor / gpu.matrix_rate(fp8=fp8)
    return StepPart(forward=forward, backward=2 * forward)


def attention_part(model: Model, gpu: Gpu, layout: PlannedLayout, *, tokens: float, seq_length: int) -> StepPart:
    """Return the time of attention proper.

    Fused: half of the square, backward 2.5 times forward (FlashAttention, arXiv:2205.14135); context parallel hides
    the ring that keys and values take behind it, as far as it is long enough. Unfused: the whole square, and each
    score crosses memory (13 bytes forward, 20 backward: product, fused softmax, dropout with mask, product).
    """
    flop = 4 * tokens * seq_length * model.attentions * model.query_size / layout.tensor
    if model.unfused_attention:
        scores = tokens * seq_length * model.attentions * model.num_attention_heads / layout.tensor
        rate = gpu.matrix_rate(fp8=False)
        return StepPart(
            forward=flop / rate + 13 * scores / gpu.stream, backward=2 * flop / rate + 20 * scores / gpu.stream
        )
    forward = flop / 2 / (gpu.bf16 * gpu.attention_fraction)
    if layout.context == 1:
        return StepPart(forward=forward, backward=2.5 * forward)
    ring = ring_bytes(model, layout, tokens=tokens) / 3 / ring_rate(gpu, layout)
    turns = model.attentions * (layout.context - 1) * COLLECTIVE_LATENCY
    return StepPart(
        forward=max(forward, ring) + NOT_HIDDEN * ring + turns,
        backward=max(2.5 * forward, 2 * ring) + 2 * NOT_HIDDEN * ring + turns,
    )


def ring_bytes(model: Model, layout: PlannedLayout, *, tokens: float) -> float:
    """Return what a rank sends per layer and micro-batch under context parallel.

    Keys and values once around forward, they and their gradients backward.
    """
    return 3 * 2 * 2 * tokens * model.attentions * model.key_value_size / layout.tensor * (layout.context - 1)


def ring_rate(gpu: Gpu, layout: PlannedLayout) -> float:
    """Return the bytes/s between neighbours in a context-parallel group; it lies next to the tensor-parallel one."""
    return LINK_FRACTION * (gpu.nvlink if layout.tensor * layout.context <= NODE else gpu.network)


def elementwise_part(model: Model, gpu: Gpu, layout: PlannedLayout, *, tokens: float, fp8: bool) -> StepPart:
    """Return the time of norms, residuals, rotation, activation, and of the casts to 8 bits, which only move bytes.

    Forward and in bytes per token: 12 h for two norms and two residual sums, 4 (q + 2 k) for the rotation, and
    reading and writing the activation; backward twice that. A cast reads 2 bytes and writes two forms of 1.
    Recurrent layers are taken for such work too: convolution, scan and norm, each reading and writing once.
    """
    q, kv = (model.attentions * size for size in (model.query_size, model.key_value_size))
    inputs, f = (model.feed_forwards * size for size in (model.ffn_inputs, model.ffn_hidden_size))
    h = model.sublayers * model.hidden_size / (layout.tensor if layout.sequence_parallel else 1)
    scans = sum(2 * one.convolved + one.inputs + 3 * one.inner for one in model.recurrents)
    forward = 6 * h + (4 * (q + 2 * kv) + 2 * (inputs + f) + 2 * scans) / layout.tensor
    cast = 4 * (h + (q + f) / layout.tensor) if fp8 else 0.0
    back = 4 * (h + (q + 2 * kv + inputs) / layout.tensor) if fp8 else 0.0
    return StepPart(
        forward=tokens * (forward + cast) / gpu.stream, backward=tokens * (2 * forward + back) / gpu.stream
    )


def tensor_bytes(model: Model, layout: PlannedLayout, *, tokens: float) -> float:
    """Return what a rank sends per layer and micro-batch in one all-gather or reduce-scatter of the activations."""
    return 2 * tokens * model.hidden_size * (layout.tensor - 1) / layout.tensor


def tensor_part(model: Model, gpu: Gpu, layout: PlannedLayout, *, tokens: float) -> StepPart:
    """Return the time of tensor-parallel communication that is not hidden.

    Forward two all-gathers and two reduce-scatters, or two all-reduces, which send the same (Korthikanti et al.
    2022, section 4.2.2). Backward with sequence parallel, Megatron hides the two that go with weight gradients.
    """
    if layout.tensor == 1:
        return StepPart(forward=0.0, backward=0.0)
    one = tensor_bytes(model, layout, tokens=tokens) / (gpu.nvlink * LINK_FRACTION) + COLLECTIVE_LATENCY
    shown = 1 - HIDDEN_BY_OVERLAP if layout.tensor_overlap else 1.0
    times = model.sublayers
    return StepPart(
        forward=2 * times * one * shown, backward=(1 if layout.sequence_parallel else 2) * times * one * shown
    )


def head_seconds(model: Model, gpu: Gpu, layout: PlannedLayout, *, tokens: float) -> float:
    """Return the time of output layer and loss for one micro-batch: three matrix products, and the traffic of the logits."""
    product = 2 * tokens * model.table / layout.tensor / gpu.matrix_rate(fp8=False)
    moved = UNFUSED_LOSS_BYTES if model.unfused_loss else LOSS_BYTES
    return 3 * product + moved * tokens * model.vocabulary / layout.tensor / gpu.stream


def data_rate(gpu: Gpu, layout: PlannedLayout) -> float:
    """Return the bytes/s of data-parallel collectives: a ring uses the cards of all its ranks on a node together."""
    if layout.tensor * layout.replicas <= NODE:
        return gpu.nvlink * LINK_FRACTION
    together = max(1, min(NODE // layout.tensor, layout.replicas))
    return min(gpu.nvlink, gpu.network * together) * LINK_FRACTION


def step(model: Model, gpu: Gpu, layout: PlannedLayout, *, seq_length: int, fp8: bool = False) -> Step:
    """Return the time of one step.

    All stages keep the pace of the slowest, the one with most layers, and the last has the output layer besides.
    """
    tokens = seq_length * layout.micro_batch / layout.context
    p, v, m = layout.pipeline, layout.virtual, layout.num_micro_batches
    layers = max(layout.stage_layers(model.num_layers, stage) for stage in {0, min(1, p - 1), p - 1})
    matrices = matrix_part(model, gpu, layout, tokens=tokens, fp8=fp8)
    attention = attention_part(model, gpu, layout, tokens=tokens, seq_length=seq_length)
    elementwise = elementwise_part(model, gpu, layout, tokens=tokens, fp8=fp8)
    tensor = tensor_part(model, gpu, layout, tokens=tokens)
    forward = matrices.forward + attention.forward + elementwise.forward + tensor.forward
    backward = matrices.backward + attention.backward + elementwise.backward + tensor.backward
    again = recomputed_seconds(model, layout, matrices, attention, elementwise, forward=forward)
    launches = gpus.HOST_SECONDS * model.sublayers / 2
    host = max(0.0, launches - forward) + max(0.0, launches - backward - again)
    chunk = StepPart(forward=forward * layers / v, backward=(backward + again) * layers / v)

    head = head_seconds(model, gpu, layout, tokens=tokens)
    message = 2 * tokens * model.hidden_size / layout.tensor
    sent = 2 * v * message if p > 1 else 0.0
    shown = 0.0
    if p > 1:
        shown = 2 * v * (message / (gpu.network * LINK_FRACTION) + COLLECTIVE_LATENCY)
        shown *= 1 - HIDDEN_BY_OVERLAP if v > 1 else 1.0
    whole = layers * (forward + backward + again + host)
    data, data_sent = data_seconds(model, gpu, layout, chunk)
    return Step(
        matrices=m * layers * matrices.both,
        attention=m * layers * attention.both,
        elementwise=m * layers * elementwise.both,
        tensor=m * layers * tensor.both,
        recompute=m * layers * again,
        host=m * layers * host,
        head=m * head,
        pipeline=m * shown,
        bubble=(p - 1) / v * (whole + head / p + shown),
        data=data,
        optimizer=optimizer_seconds(model, gpu, layout),
        rest=gpus.STEP_SECONDS,
        sent={
            "tensor": m * layers * 4 * model.sublayers * tensor_bytes(model, layout, tokens=tokens)
            if layout.tensor > 1
            else 0.0,
            "context": m * layers * ring_bytes(model, layout, tokens=tokens),
            "pipeline": m * sent,
            "data": data_sent,
        },
    )


def recomputed_seconds(
    model: Model,
    layout: PlannedLayout,
    matrices: StepPart,
    attention: StepPart,
    elementwise: StepPart,
    *,
    forward: float,
) -> float:
    """Return the time per layer and micro-batch of what is computed again.

    Selective: the feed-forward part, or with unfused attention the attention (Korthikanti et al. 2022, section 5).
    """
    if layout.recompute == NONE:
        return 0.0
    if layout.recompute == FULL:
        return forward
    if model.unfused_attention:
        return attention.forward
    share = model.feed_forward_matrices / model.layer_matrices
    return share * (matrices.forward + elementwise.forward)


def data_seconds(model: Model, gpu: Gpu, layout: PlannedLayout, chunk: StepPart) -> tuple[float, float]:
    """Return what shows of reducing gradients (float32) and gathering weights (bfloat16), in s, and the bytes sent.

    With overlap they hide behind the last backward and the first forward pass of a chunk, but for the first and last
    buckets. Without the distributed optimizer gradients are reduced and gathered in float32.
    """
    count = max(stage_parameters(model, layout, stage)[0] for stage in {0, layout.pipeline - 1})
    ring = (layout.replicas - 1) / layout.replicas
    reduce, gather = 4 * count * ring, (2 if layout.distributed_optimizer else 4) * count * ring
    rate = data_rate(gpu, layout)
    if not layout.data_overlap:
        return (reduce + gather) / rate, reduce + gather
    shown = max(0.0, reduce / rate - chunk.backward) + max(0.0, gather / rate - chunk.forward)
    return shown + NOT_HIDDEN * (reduce + gather) / rate, reduce + gather


def optimizer_seconds(model: Model, gpu: Gpu, layout: PlannedLayout) -> float:
    """Return the time of Adam: it moves 30 bytes per parameter it holds, and 8 to clear and norm each gradient."""
    count = max(stage_parameters(model, layout, stage)[0] for stage in {0, layout.pipeline - 1})
    own = count / (layout.replicas if layout.distributed_optimizer else 1)
    return (30 * own + 8 * count) / gpu.stream
