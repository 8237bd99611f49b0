"""Throughput that others measured with Megatron-LM and NeMo, beside the planner's estimate.

    python -m tests.planning.published        the table of docs/planning.md

A measurement is here if its source gives the whole layout, or leaves one thing open that is filled in by one rule
for all rows of that source (named there). Left out: fully sharded data parallel, mixtures of experts, LoRA, GB200
and GB300, and of the H100 table in Megatron-LM's README four rows whose pipeline schedule is not said and matters
(70B, 119B, 177B, 314B).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from meap_megatron.planning.gpus import find
from meap_megatron.planning.layout import FULL, NONE, SELECTIVE, PlannedLayout
from meap_megatron.planning.model_shape import Model
from meap_megatron.planning.step import step

FITTED, HELD_OUT = "yes", "no"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    source: str
    name: str
    gpu: str
    model: Model
    seq_length: int
    layout: PlannedLayout
    fp8: bool
    tokens_per_second: float
    """Per GPU."""
    fitted: str
    """Whether the fractions in `planning.gpus` were chosen with a look at it."""

    def estimate(self) -> float:
        """Return the planner's tokens per second and GPU."""
        layout = self.layout
        tokens = self.seq_length * layout.micro_batch * layout.num_micro_batches * layout.data
        seconds = step(self.model, find(self.gpu), layout, seq_length=self.seq_length, fp8=self.fp8).seconds
        return tokens / seconds / layout.gpus

    @property
    def error(self) -> float:
        """Estimate against measurement, as a fraction."""
        return self.estimate() / self.tokens_per_second - 1


def gpt(
    layers: int, hidden: int, heads: int, *, vocabulary: int = 51200, positions: int = 2048, unfused: bool = False
) -> Model:
    """Return a GPT-3 model: GeLU, LayerNorm, biases, one table, learned positions."""
    return Model(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=4 * hidden,
        num_attention_heads=heads,
        num_query_groups=heads,
        kv_channels=hidden // heads,
        vocabulary=vocabulary,
        gated=False,
        tied=True,
        linear_bias=True,
        layer_norm=True,
        learned_positions=positions,
        unfused_attention=unfused,
        unfused_loss=unfused,
    )


def llama(
    layers: int, hidden: int, ffn: int, heads: int, groups: int, vocabulary: int, *, gated: bool = True
) -> Model:
    """Return a Llama or (not gated) a Nemotron."""
    return Model(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=hidden // heads,
        vocabulary=vocabulary,
        gated=gated,
    )


def layout_of(
    gpus: int, batch: int, micro: int, tensor: int, pipeline: int, context: int = 1, **more: Any
) -> PlannedLayout:
    """Return a layout of so many GPUs; the batch is in sequences."""
    data = gpus // (tensor * pipeline * context)
    assert batch % (data * micro) == 0
    return PlannedLayout(
        tensor=tensor,
        pipeline=pipeline,
        context=context,
        data=data,
        micro_batch=micro,
        num_micro_batches=batch // (data * micro),
        **more,
    )


def narayanan() -> Iterator[Case]:
    """Narayanan et al. 2021, arXiv:2104.04473, table 1: A100, full recomputation, no sequence parallel, unfused attention.

    Micro-batches, schedules and which rows overlap gradients (`DDP=torch`): Megatron-LM's
    examples/academic_paper_scripts/sc21/run_table_1.sh. Tokens/s from the stated FLOP/s by the paper's equation 3.
    """
    rows = [
        ("1.7B", 24, 2304, 24, 1, 1, 16, 512, 32, 1, 137),
        ("3.6B", 30, 3072, 32, 2, 1, 16, 512, 64, 1, 138),
        ("7.5B", 36, 4096, 32, 4, 1, 16, 512, 128, 1, 142),
        ("18B", 40, 6144, 48, 8, 1, 8, 1024, 256, 1, 135),
        ("39B", 48, 8192, 64, 8, 2, 4, 1536, 512, 1, 138),
        ("76B", 60, 10240, 80, 8, 4, 2, 1792, 1024, 3, 140),
        ("145B", 80, 12288, 96, 8, 8, 2, 2304, 1536, 2, 148),
        ("310B", 96, 16384, 128, 8, 16, 1, 2160, 1920, 2, 155),
        ("530B", 105, 20480, 128, 8, 35, 1, 2520, 2520, 3, 163),
        ("1T", 128, 25600, 160, 8, 64, 1, 3072, 3072, 1, 163),
    ]
    for name, layers, hidden, heads, tensor, pipeline, micro, batch, gpus, virtual, tflops in rows:
        more = {"virtual": virtual, "recompute": FULL, "distributed_optimizer": False, "data_overlap": pipeline == 1}
        s = 2048
        flop_per_token = 96 * layers * hidden**2 * (1 + s / (6 * hidden) + 51200 / (16 * layers * hidden))
        yield Case(
            source="Narayanan 2021, table 1",
            name=f"GPT {name}",
            gpu="a100",
            model=gpt(layers, hidden, heads, unfused=True),
            seq_length=s,
            layout=layout_of(gpus, batch, micro, tensor, pipeline, **more),
            fp8=False,
            tokens_per_second=tflops * 1e12 / flop_per_token,
            fitted=FITTED,
        )


def korthikanti() -> Iterator[Case]:
    """Korthikanti et al. 2022, arXiv:2205.05198, tables 3 and 5 (A100, seconds per step), and section 6.3.

    With sequence parallel, and attention recomputed: the runs whose MFU Megatron-LM's README of 2022 states as well. Those
    with full recomputation could not be looked up and are left out.
    """
    rows = [
        ("22B", 48, 6144, 64, 1, 4, 4, 8, 1, 1.10),
        ("175B", 96, 12288, 96, 8, 64, 1, 64, 3, 13.75),
        ("530B", 105, 20480, 128, 35, 280, 1, 280, 3, 37.83),
        ("1T", 128, 25600, 160, 64, 512, 1, 512, 1, 71.49),
        ("530B", 105, 20480, 128, 35, 2240, 1, 2240, 3, 39.15),
    ]
    for name, layers, hidden, heads, pipeline, batch, micro, gpus, virtual, seconds in rows:
        more = {"virtual": virtual, "recompute": SELECTIVE, "distributed_optimizer": False}
        yield Case(
            source="Korthikanti 2022, section 6.3" if gpus == 2240 else "Korthikanti 2022, table 5",
            name=f"GPT {name}, selective",
            gpu="a100",
            model=gpt(layers, hidden, heads, unfused=True),
            seq_length=2048,
            layout=layout_of(gpus, batch, micro, 8, pipeline, sequence_parallel=True, **more),
            fp8=False,
            tokens_per_second=batch * 2048 / seconds / gpus,
            fitted=HELD_OUT,
        )


def megatron_readme() -> Iterator[Case]:
    """Megatron-LM's README of July 2024 (commit f2e5db402c, images/model_table.png): H100, BF16, all overlaps on.

    The micro-batch is not said; here it is all four sequences of a rank without pipeline, and 1 with it. 462B has 7
    layers on a stage, so 1 or 7 chunks: 7. 177B on 96 GPUs: "47 %" in the text; 6 stages of 16 layers, 1 to 16
    chunks change it by 1 %. Tokens/s from the stated FLOP/s by `num_floating_point_operations` of that commit.
    """
    rows = [
        ("1.7B", 24, 2048, 16, 1, 1, 4, 192, 48, 1, 408.8),
        ("7.1B", 30, 4096, 32, 2, 1, 4, 192, 96, 1, 465.9),
        ("16B", 32, 6144, 48, 4, 1, 4, 192, 192, 1, 489.1),
        ("32B", 48, 7168, 56, 8, 1, 4, 192, 384, 1, 459.6),
        ("462B", 112, 18432, 144, 8, 16, 1, 3072, 6144, 7, 459.9),
        ("177B", 96, 12288, 96, 8, 6, 1, 1152, 96, 16, 0.47 * 989.5),
    ]
    for name, layers, hidden, heads, tensor, pipeline, micro, batch, gpus, virtual, tflops in rows:
        s, rows_of_table = 4096, 131072
        flop_per_token = 12 * layers * hidden**2 * (2 + s / hidden + 4 + rows_of_table / (2 * layers * hidden))
        layout = layout_of(
            gpus, batch, micro, tensor, pipeline, virtual=virtual, sequence_parallel=tensor > 1, tensor_overlap=True
        )
        yield Case(
            source="Megatron-LM README, 2024",
            name=f"GPT {name}",
            gpu="h100",
            model=gpt(layers, hidden, heads, vocabulary=rows_of_table, positions=s),
            seq_length=s,
            layout=layout,
            fp8=False,
            tokens_per_second=tflops * 1e12 / flop_per_token,
            fitted=FITTED,
        )


def nemo() -> Iterator[Case]:
    """NeMo 24.07, docs/source/performance/performance_summary.md at commit 070a0bb168: DGX H100, FP8.

    Overlap of tensor-parallel communication as in NeMo-Framework-Launcher's configurations: on wherever TP is above 1.
    """
    llama2, llama3 = 32000, 128256
    rows = [
        ("GPT3-5B", gpt(24, 4096, 32), 2048, 64, 2048, 4, 1, 1, 1, 1, 22521),
        ("GPT3-20B", gpt(44, 6144, 48), 2048, 64, 256, 2, 2, 1, 1, 1, 5851),
        ("GPT3-175B", gpt(96, 12288, 96), 2048, 128, 256, 1, 4, 8, 1, 6, 726),
        ("GPT3-175B", gpt(96, 12288, 96), 2048, 512, 2048, 2, 4, 8, 1, 6, 782),
        ("Llama2-7B", llama(32, 4096, 11008, 32, 32, llama2), 4096, 8, 128, 1, 1, 1, 1, 1, 16847),
        ("Llama2-13B", llama(40, 5120, 13824, 40, 40, llama2), 4096, 16, 128, 1, 1, 4, 1, 10, 8646),
        ("Llama2-70B", llama(80, 8192, 28672, 64, 8, llama2), 4096, 64, 128, 1, 4, 4, 1, 20, 1707),
        ("Nemotron-8B", llama(32, 4096, 16384, 32, 32, 256000, gated=False), 4096, 64, 256, 4, 2, 1, 1, 1, 12701),
        ("Nemotron-22B", llama(40, 6144, 24576, 48, 48, 256000, gated=False), 4096, 64, 256, 2, 2, 4, 1, 10, 4256),
        ("Nemotron-340B", llama(96, 18432, 73728, 96, 8, 256000, gated=False), 4096, 128, 32, 1, 8, 8, 1, 12, 322),
        ("Llama3-8B", llama(32, 4096, 14336, 32, 8, llama3), 8192, 8, 128, 1, 1, 1, 2, 1, 12036),
        ("Llama3-70B", llama(80, 8192, 28672, 64, 8, llama3), 8192, 64, 128, 1, 4, 4, 2, 5, 1533),
    ]
    yield from eight_bit(rows, source="NeMo 24.07, performance summary", gpu="h100", fitted=FITTED)


def bridge() -> Iterator[Case]:
    """Megatron-Bridge's performance summary and its archive: FP8 with current scaling, DGX H100 and DGX B200.

    Containers 25.11 (commit 00b7660be0) and, 405B with 1,536 sequences, 26.06. Overlap as for NeMo. And the verification
    card of Qwen3-8B of 2026-07-21 (recipe qwen3_8b_pretrain_16gpu_h100_bf16_config), whose 512.7 TFLOP/s are 49.03 GFLOP
    per token: those of 151,936 rows of vocabulary. The norms of its queries and keys are not counted.
    """
    llama8 = llama(32, 4096, 14336, 32, 8, 128256)
    llama70 = llama(80, 8192, 28672, 64, 8, 128256)
    llama405 = llama(126, 16384, 53248, 128, 8, 128256)
    of_h100 = [
        ("Llama3-70B", llama70, 8192, 64, 128, 1, 4, 8, 1, 5, 1602),
        ("Llama3.1-405B", llama405, 8192, 1024, 512, 1, 8, 8, 2, 8, 292),
        ("Llama3.1-405B", llama405, 8192, 1024, 1536, 1, 8, 8, 2, 8, 326),
    ]
    of_b200 = [
        ("Llama3-8B", llama8, 8192, 8, 128, 2, 1, 1, 1, 1, 30624),
        ("Llama3.1-405B", llama405, 8192, 128, 64, 1, 4, 8, 2, 8, 661),
    ]
    yield from eight_bit(of_h100, source="Megatron-Bridge, performance summary", gpu="h100", fitted=HELD_OUT)
    yield from eight_bit(of_b200, source="Megatron-Bridge, performance summary", gpu="b200", fitted=HELD_OUT)
    yield Case(
        source="Megatron-Bridge, verification card",
        name="Qwen3-8B",
        gpu="h100",
        model=replace(llama(36, 4096, 12288, 32, 8, 151936), kv_channels=128, qk_norm=True),
        seq_length=4096,
        layout=layout_of(16, 1024, 1, 1, 1),
        fp8=False,
        tokens_per_second=10456.348,
        fitted=HELD_OUT,
    )


def eight_bit(rows: list[tuple[Any, ...]], *, source: str, gpu: str, fitted: str) -> Iterator[Case]:
    """Return the cases of a table of NeMo's form, whose figures are tokens per second and GPU."""
    for name, model, seq_length, gpus, batch, micro, tensor, pipeline, context, virtual, tokens in rows:
        more = {"virtual": virtual, "sequence_parallel": tensor > 1, "tensor_overlap": tensor > 1, "recompute": NONE}
        yield Case(
            source=source,
            name=name,
            gpu=gpu,
            model=model,
            seq_length=seq_length,
            layout=layout_of(gpus, batch, micro, tensor, pipeline, context, **more),
            fp8=True,
            tokens_per_second=tokens,
            fitted=fitted,
        )


def cases() -> list[Case]:
    """Return all measurements."""
    return [*narayanan(), *korthikanti(), *megatron_readme(), *nemo(), *bridge()]


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| source | model | GPUs | format | TP x PP x CP x DP | batch | measured | estimate | off by | fitted |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases():
        layout = case.layout
        sizes = f"{layout.tensor} x {layout.pipeline} x {layout.context} x {layout.data}"
        batch = layout.micro_batch * layout.num_micro_batches * layout.data
        cells = [
            case.source,
            case.name,
            f"{layout.gpus:,} {case.gpu.upper()}",
            "FP8" if case.fp8 else "16 bits",
            sizes,
            f"{batch:,}",
            f"{case.tokens_per_second:,.0f}",
            f"{case.estimate():,.0f}",
            f"{case.error:+.1%}",
            case.fitted,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
