"""Does the model fit the layout, and the layout the number of processes? Arithmetic, before Megatron is imported.

Megatron asserts most of this too, one rule at a time and often without the numbers; some of it only on the GPU, at the
first step. Here all that is wrong is said at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meap_megatron.errors import UserError
from meap_megatron.launch.hybrid import CUTS, UNEVEN, segments
from meap_megatron.launch.named_settings import Settings
from meap_megatron.layer_pattern import segments_of


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many processes a job has and over how many of them each dimension is split."""

    world: int
    """0: not known, and nothing is said of copies and batches."""
    tensor: int
    pipeline: int
    context: int

    @property
    def model(self) -> int:
        """Processes that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @property
    def data(self) -> int | None:
        """Copies of the model; None: not known, or the processes cannot be cut into whole ones."""
        return self.world // self.model if self.world and self.world % self.model == 0 else None

    def __str__(self) -> str:
        copies = "?" if self.data is None else f"{self.data:,}"
        return f"tensor {self.tensor} x pipeline {self.pipeline} x context {self.context} x data {copies}"


def of_settings(settings: Settings, *, world: int | None) -> Layout:
    """Return the layout that the settings ask for."""
    return Layout(
        world=world or 0,
        tensor=settings.whole("tensor_model_parallel_size", 1) or 1,
        pipeline=settings.whole("pipeline_model_parallel_size", 1) or 1,
        context=settings.whole("context_parallel_size", 1) or 1,
    )


def findings(settings: Settings, layout: Layout) -> Iterator[UserError]:
    """Yield everything that does not fit, each with where it is written, the rule and the way out."""
    yield from of_world(layout)
    for check in (of_attention, of_layers, of_widths, of_sequence, of_batch):
        yield from check(settings, layout)


def of_world(layout: Layout) -> Iterator[UserError]:
    """Yield why the processes cannot be cut into copies of the model."""
    if not layout.world or layout.data is not None:
        return
    least, model = layout.world // layout.model * layout.model, layout.model
    near = f"{least:,} or {least + model:,}" if least else f"{model:,}"
    yield UserError(
        f"{layout.world:,} processes cannot be cut into copies of the model of tensor {layout.tensor} x pipeline "
        f"{layout.pipeline} x context {layout.context} = {model:,}",
        fix=f"start {near}, or change the layout",
    )


def divisors(*numbers: int) -> list[int]:
    """Return the numbers that divide all of `numbers`, ascending."""
    return [n for n in range(1, min(numbers) + 1) if all(number % n == 0 for number in numbers)]


def choices(*numbers: int) -> str:
    """Return the same as people read them."""
    return ", ".join(map(str, divisors(*numbers)))


def of_attention(settings: Settings, layout: Layout) -> Iterator[UserError]:
    """Yield what tensor parallel cannot split in attention."""
    heads, tensor = settings.whole("num_attention_heads"), layout.tensor
    hidden = settings.whole("hidden_size")
    if heads is None:
        return
    groups = (settings.whole("num_query_groups") if settings.on("group_query_attention") else None) or heads
    if heads % tensor:
        yield UserError(
            f"{settings.where('num_attention_heads')}num_attention_heads={heads} is not divisible by "
            f"tensor_model_parallel_size={tensor}",
            fix=f"choose one of {choices(heads)}",
        )
    if groups != heads and groups % tensor and tensor % groups:
        yield UserError(
            f"{settings.where('num_query_groups')}num_query_groups={groups} is neither a multiple nor a divisor of "
            f"tensor_model_parallel_size={tensor}",
            fix=f"with {heads} heads choose one of {choices(heads, groups)}",
        )
    if heads % groups:
        yield UserError(
            f"{settings.where('num_query_groups')}num_query_groups={groups} does not divide num_attention_heads={heads}",
            fix=f"choose one of {choices(heads)}",
        )
    if hidden and hidden % heads and settings.whole("kv_channels") is None:
        yield UserError(
            f"{settings.where('hidden_size')}hidden_size={hidden} is not divisible by num_attention_heads={heads}",
            fix="change one of them, or give kv_channels, the size of a head",
        )


def of_layers(settings: Settings, layout: Layout) -> Iterator[UserError]:
    """Yield why the layers cannot be dealt out to the pipeline stages."""
    layers, pipeline = settings.whole("num_layers"), layout.pipeline
    if layers is None or settings.has("pipeline_model_parallel_layout"):
        return
    if uneven := [name for name in UNEVEN if settings.has(name)]:
        given = {name: settings.get(name) for name in ("num_layers", "pipeline_model_parallel_size", *CUTS)}
        try:
            segments(given, origin=settings.where(uneven[0]).removesuffix(": "))
        except UserError as error:
            yield error.rewritten(lambda text: text.removeprefix(": "))
        return
    if layers % pipeline:
        yield UserError(
            f"{settings.where('num_layers')}num_layers={layers} is not divisible by "
            f"pipeline_model_parallel_size={pipeline}",
            fix=f"choose one of {choices(layers)}",
        )
        return
    stage = layers // pipeline
    interleaved = ("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank")
    if pipeline == 1 and (parts := [name for name in interleaved if settings.has(name)]):
        yield UserError(
            f"{settings.where(parts[0])}{parts[0]}={settings.get(parts[0])} needs pipeline_model_parallel_size above 1",
            fix="leave it out",
        )
        return
    for name in interleaved:
        size = settings.whole(name)
        if size is not None and stage % size:
            yield UserError(
                f"{settings.where(name)}{name}={size} does not divide the {stage} layers of a pipeline stage "
                f"({layers} / {pipeline})",
                fix=f"choose one of {choices(stage)}",
            )


def virtual_stages(settings: Settings, layout: Layout) -> int:
    """Return into how many parts interleaving cuts the layers of a stage; 1 without it."""
    if (pattern := settings.get("hybrid_layer_pattern")) is not None:
        return max(1, len(segments_of(str(pattern))) // layout.pipeline)
    parts, size = (
        settings.whole(f"num_{name}")
        for name in ("virtual_stages_per_pipeline_rank", "layers_per_virtual_pipeline_stage")
    )
    layers = settings.whole("num_layers")
    if parts is not None:
        return parts
    return layers // layout.pipeline // size if size and layers and layers // layout.pipeline >= size else 1


def feed_forward_width(settings: Settings) -> int | None:
    """Return the ffn_hidden_size that Megatron takes where none is given; None without a hidden size."""
    hidden = settings.whole("hidden_size")
    return None if hidden is None else default_ffn(hidden, gated=settings.on("swiglu"))


def default_ffn(hidden: int, *, gated: bool) -> int:
    """Return Megatron's width of the feed-forward layer where none is given: 4 h, or 8/3 h to a multiple of 64."""
    return int((4 * hidden * 2 / 3) / 64) * 64 if gated else 4 * hidden


def of_widths(settings: Settings, layout: Layout) -> Iterator[UserError]:
    """Yield what tensor and expert parallel cannot split outside attention."""
    tensor = layout.tensor
    for name, what in (
        ("ffn_hidden_size", "the feed-forward layer"),
        ("padded_vocab_size", "the rows of the embedding"),
    ):
        size = settings.whole(name, feed_forward_width(settings) if name == "ffn_hidden_size" else None)
        if size is not None and size % tensor:
            yield UserError(
                f"{settings.where(name)}{name}={size} ({what}) is not divisible by tensor_model_parallel_size={tensor}",
                fix=f"use {-(-size // tensor) * tensor}"
                + (", or leave it out: it then follows from the data" if name == "padded_vocab_size" else ""),
            )
    experts, over = settings.whole("num_experts"), settings.whole("expert_model_parallel_size", 1) or 1
    if over > 1 and (experts is None or experts % over):
        yield UserError(
            f"{settings.where('expert_model_parallel_size')}expert_model_parallel_size={over} does not divide "
            f"num_experts={experts}",
            fix=f"choose one of {choices(experts)}" if experts else "leave it out",
        )


def of_sequence(settings: Settings, layout: Layout) -> Iterator[UserError]:
    """Yield why a sequence cannot be cut for context and sequence parallel."""
    length, positions = settings.whole("seq_length"), settings.whole("max_position_embeddings")
    if length is None:
        return
    where = settings.where("seq_length")
    if positions is not None and length > positions:
        yield UserError(
            f"{where}seq_length={length} is longer than max_position_embeddings={positions}",
            fix="raise max_position_embeddings",
        )
    context = layout.context
    if context > 1 and length % (2 * context):
        yield UserError(
            f"{where}seq_length={length} is not divisible by 2 x context_parallel_size = {2 * context}: every rank "
            "takes a piece from the front and one from the back",
            fix=f"use {-(-length // (2 * context)) * 2 * context}",
        )
    elif settings.on("sequence_parallel") and layout.tensor > 1 and length % (context * layout.tensor):
        unit = (2 * context if context > 1 else 1) * layout.tensor
        yield UserError(
            f"{where}seq_length={length} is not divisible by tensor_model_parallel_size={layout.tensor}"
            + (f" x context_parallel_size={context}" if context > 1 else "")
            + ", over which sequence_parallel cuts it",
            fix=f"use {-(-length // unit) * unit}, or sequence_parallel=false",
        )


def of_batch(settings: Settings, layout: Layout) -> Iterator[UserError]:
    """Yield why a step cannot be cut into micro-batches."""
    micro, data = settings.whole("micro_batch_size"), layout.data
    if micro is None or data is None or settings.has("step_batch_size_schedule", "rampup_batch_size"):
        return
    whole = True
    for name, size_name in (
        ("global_batch_size", "micro_batch_size"),
        ("eval_global_batch_size", "eval_micro_batch_size"),
    ):
        batch, size = settings.whole(name), settings.whole(size_name, micro) or micro
        if batch is None or batch % (data * size) == 0:
            continue
        text = (
            f"{settings.where(name)}{name}={batch:,} is not divisible by {data:,} data-parallel ranks x "
            f"{size_name} {size} = {data * size:,}"
        )
        if batch < data:
            text += f"; only {batch:,} ranks could have a sequence each"
            fix = f"raise {name}, or tensor, pipeline or context parallel"
        elif batch % data:
            fix = f"use {-(-batch // (data * size)) * data * size:,}, or another layout"
        else:
            fix = f"with this layout set {size_name} to one of {choices(batch // data)}"
        whole = False
        yield UserError(text, fix=fix)
    batch, parts = settings.whole("global_batch_size"), virtual_stages(settings, layout)
    grouped = settings.has("microbatch_group_size_per_virtual_pipeline_stage")
    if whole and batch and parts > 1 and not grouped and batch // (data * micro) % layout.pipeline:
        yield UserError(
            f"{settings.where('global_batch_size')}interleaved pipeline stages take micro-batches in groups of "
            f"pipeline_model_parallel_size={layout.pipeline}, and a step has {batch // (data * micro)} of them "
            f"(global_batch_size {batch:,} / ({data:,} data-parallel ranks x micro_batch_size {micro}))",
            fix="change one of these, or leave interleaving out",
        )
