"""All layouts of a job on so many GPUs, what each costs, and which is best."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from meap_megatron.errors import UserError, counted
from meap_megatron.launch import precision
from meap_megatron.launch.parallelism import divisors
from meap_megatron.planning.gpus import GB, Gpu
from meap_megatron.planning.job import PlannedJob, own_layout
from meap_megatron.planning.layout import RECOMPUTE, PlannedLayout
from meap_megatron.planning.memory import Memory, fullest
from meap_megatron.planning.model_shape import Model
from meap_megatron.planning.step import Step, step

CLOSE = 0.02
"""Estimates that differ by less are taken as equal; the simpler layout is chosen."""
ROOMY = 0.8
"""Of the memory: up to this, larger micro-batches are preferred."""
LARGEST_MICRO_BATCH = 64
DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One layout and what it costs."""

    job: PlannedJob
    gpu: Gpu
    model: Model
    layout: PlannedLayout
    memory: Memory
    step: Step

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.step.seconds

    @property
    def tokens_per_second(self) -> float:
        """Of the whole job."""
        return self.job.tokens_per_step / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP (as Megatron 0.19 counts them) against the dense bfloat16 peak, also for FP8."""
        flop = self.model.flop_per_token(self.job.seq_length) * self.tokens_per_second
        return flop / (self.layout.gpus * self.gpu.bf16)

    @property
    def days(self) -> float | None:
        """For the job's tokens; None if they are not known."""
        return None if self.job.tokens is None else self.job.tokens / self.tokens_per_second / DAY

    @property
    def gpu_hours(self) -> float | None:
        """For the job's tokens."""
        return None if self.days is None else self.days * 24 * self.layout.gpus

    @property
    def simplicity(self) -> tuple[int, int, int, bool, int]:
        """Less is simpler: fewer ranks per model, nothing computed again, memory to spare, large micro-batches.

        The estimate does not see that small matrix products are slow, so micro-batches are as large as a fifth of
        free memory allows.
        """
        layout = self.layout
        ranks = layout.tensor * layout.pipeline * layout.context
        tight = self.memory.total > ROOMY * self.gpu.memory
        return ranks, layout.virtual, RECOMPUTE.index(layout.recompute), tight, -layout.micro_batch


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a search found."""

    fitting: list[Plan]
    """The fastest of each TP x PP x CP x DP that fits, fastest first."""
    best: Plan
    own: Plan | None
    """The recipe's own layout for this number of GPUs."""
    valid: int
    """Layouts that Megatron would accept."""
    fit: int
    """Of those, how many fit into memory."""


def powers(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to `most`."""
    return [1 << n for n in range(most.bit_length()) if 1 << n <= most]


def sizes(job: PlannedJob, *, gpus: int, node: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield every TP, PP, CP, DP that divides model, sequence, batch and GPUs.

    Tensor parallel stays within a node and divides heads, groups and widths; pipeline divides the layers; context
    parallel cuts a sequence into 2 x CP pieces, which with sequence parallel TP must divide, and is refused for
    packed fine-tuning rows.
    """
    shape = job.model(1)
    for tensor in powers(min(node, gpus)):
        split = (shape.num_attention_heads, shape.num_query_groups, shape.hidden_size, shape.ffn_hidden_size)
        if any(size % tensor for size in split):
            continue
        for pipeline in divisors(shape.num_layers):
            for context in powers(1 if job.fine_tuning else gpus):
                data, left = divmod(gpus, tensor * pipeline * context)
                pieces = 2 * context if context > 1 else 1
                if left or not data or job.seq_length % pieces or job.seq_length // context % tensor:
                    continue
                if job.global_batch % data == 0:
                    yield tensor, pipeline, context, data


def layouts(job: PlannedJob, *, gpus: int, node: int) -> Iterator[PlannedLayout]:
    """Yield every layout without recomputation: sizes, micro-batch, and interleaving where the micro-batches allow it.

    Sequence parallel comes with tensor parallel: it costs nothing and saves memory (Korthikanti et al. 2022, section
    4.2.2). So does the distributed optimizer, which stays as the recipe says.
    """
    get = job.settings.get
    common = PlannedLayout(
        distributed_optimizer=get("use_distributed_optimizer") is not False,
        tensor_overlap=bool(get("tp_comm_overlap")),
        data_overlap=bool(get("overlap_grad_reduce")),
    )
    num_layers = job.model(1).num_layers
    for tensor, pipeline, context, data in sizes(job, gpus=gpus, node=node):
        of_rank = job.global_batch // data
        for micro in powers(min(of_rank, LARGEST_MICRO_BATCH)):
            if of_rank % micro:
                continue
            count = of_rank // micro
            chunks = divisors(num_layers // pipeline) if pipeline > 1 and count % pipeline == 0 else [1]
            for virtual in chunks:
                layout = replace(
                    common,
                    tensor=tensor,
                    pipeline=pipeline,
                    context=context,
                    data=data,
                    micro_batch=micro,
                    num_micro_batches=count,
                    virtual=virtual,
                    sequence_parallel=tensor > 1,
                )
                if not job.fp8 or takes_fp8(job, layout):
                    yield layout


def takes_fp8(job: PlannedJob, layout: PlannedLayout) -> bool:
    """Tell whether the matrix products of a layout have dimensions that the recipe's FP8 format takes."""
    try:
        precision.check({**job.settings, **layout.settings()})
    except UserError:
        return False
    return True


def price(job: PlannedJob, gpu: Gpu, layout: PlannedLayout) -> Plan:
    """Return what a layout costs."""
    model = job.model(layout.tensor)
    return Plan(
        job=job,
        gpu=gpu,
        model=model,
        layout=layout,
        memory=fullest(model, layout, seq_length=job.seq_length, fp8=job.fp8),
        step=step(model, gpu, layout, seq_length=job.seq_length, fp8=job.fp8),
    )


def search(job: PlannedJob, gpu: Gpu, *, gpus: int, node: int) -> Result:
    """Price all layouts and choose.

    Raises:
        UserError: the number of GPUs is none, no layout is valid, or none fits.
    """
    check_gpus(job, gpu, gpus=gpus, node=node)
    fastest: dict[tuple[int, int, int], Plan] = {}
    smallest: Plan | None = None
    valid = fit = 0
    for layout in layouts(job, gpus=gpus, node=node):
        model = job.model(layout.tensor)
        for recompute in RECOMPUTE:
            tried = replace(layout, recompute=recompute)
            memory = fullest(model, tried, seq_length=job.seq_length, fp8=job.fp8)
            valid += 1
            if memory.total > gpu.memory:
                if smallest is None or memory.total < smallest.memory.total:
                    smallest = price(job, gpu, tried)
                continue
            fit += 1
            plan = price(job, gpu, tried)
            key = (layout.tensor, layout.pipeline, layout.context)
            if key not in fastest or better(plan, fastest[key]):
                fastest[key] = plan
    if not fastest:
        raise UserError(nothing_fits(job, gpu, smallest, gpus=gpus, node=node))
    fitting = sorted(fastest.values(), key=lambda plan: plan.seconds)
    best = min(
        (plan for plan in fitting if plan.seconds <= fitting[0].seconds * (1 + CLOSE)),
        key=lambda plan: plan.simplicity,
    )
    own = own_layout(job, gpus)
    return Result(fitting=fitting, best=best, own=None if own is None else price(job, gpu, own), valid=valid, fit=fit)


def better(plan: Plan, other: Plan) -> bool:
    """Tell whether a plan of the same parallel sizes is faster, or as fast and simpler."""
    if abs(plan.seconds - other.seconds) <= CLOSE / 4 * other.seconds:
        return plan.simplicity < other.simplicity
    return plan.seconds < other.seconds


def check_gpus(job: PlannedJob, gpu: Gpu, *, gpus: int, node: int) -> None:
    """Refuse numbers of GPUs and formats that no layout can have."""
    if gpus < 1:
        raise UserError(f"--gpus {gpus} must be at least 1")
    if gpus > node and gpus % node:
        raise UserError(f"--gpus {gpus} must be a multiple of {node}, the GPUs of a node, or fewer than {node}")
    if job.fp8 and not gpu.fp8:
        raise UserError(f"{gpu.name} has no FP8 units", fix="add precision=bf16")


def nothing_fits(job: PlannedJob, gpu: Gpu, smallest: Plan | None, *, gpus: int, node: int) -> str:
    """Return the message where no layout is left: what came nearest, and what would help."""
    if smallest is None:
        steps = list(range(1, node)) + list(range(node, 4 * gpus + 1, node))
        works = [count for count in steps if any(True for _ in layouts(job, gpus=count, node=node))]
        near = sorted(sorted(works, key=lambda count: abs(count - gpus))[:4])
        shape = job.model(1)
        fp8 = ", and FP8 asks for multiples of its block sizes" if job.fp8 else ""
        return (
            f"no TP x PP x CP x DP of {counted(gpus, 'GPU')} divides this model and its batch: DP must divide the "
            f"global_batch_size of {job.global_batch}, TP {counted(shape.num_attention_heads, 'head')} and "
            f"{counted(shape.num_query_groups, 'group')}, PP "
            f"{counted(shape.num_layers, 'layer')}{fp8}; these numbers of GPUs work: "
            f"{', '.join(map(str, near)) or 'none'}. "
            "Take one of them, or change global_batch_size"
        )
    layout = smallest.layout
    return (
        f"no layout fits: the smallest needs {smallest.memory.total / GB:.1f} GB per GPU, there are {gpu.memory / GB:g} GB "
        f"(TP {layout.tensor}, PP {layout.pipeline}, CP {layout.context}, DP {layout.data}, micro-batch "
        f"{layout.micro_batch}, recomputation {layout.recompute}). More GPUs (--gpus), larger ones (--gpu, --memory) or "
        "shorter sequences would help"
    )
