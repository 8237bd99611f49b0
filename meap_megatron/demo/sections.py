"""What the demo's page has beside those of a report: the drawn sample, what it does not show, and how to continue."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meap_megatron.demo.sample import Cell
from meap_megatron.formats import duration
from meap_megatron.report.history import Results
from meap_megatron.report.page import environment
from meap_megatron.report.tables import PageTable, Row, number

Record = dict[str, Any]


def sections(sample: Sequence[Cell], record: Record, results: Results) -> tuple[str, str]:
    """Return the sections above and beneath the results, as HTML.

    Args:
        sample: the cells to draw.
        record: of the demo, see `stages.demo`: corpus, machine, versions, stages, masked validation.
        results: of either arm.
    """
    module = environment(__package__).get_template("sections.html").module
    masked: list[Row] = [
        [arm.upper(), *(number(found.get(field), 3) for field in ("lm_loss", "masked_loss", "other_loss"))]
        for arm, found in record["masked_validation"].items()
    ]
    stages: list[Row] = [
        [stage["name"], duration(stage["seconds"], digits=1), stage["made"]] for stage in record["stages"]
    ]
    before = module.before(  # type: ignore[attr-defined]
        sample=[(visible(cell.text), visible(cell.label), cell.masked) for cell in sample],
        index=record["sample_index"],
        positions=results.settings["seq_length"],
    )
    after = module.after(  # type: ignore[attr-defined]
        masked=PageTable(
            headings=["", "all positions", "at [MASK]", "elsewhere"], parts=[("", masked, "ours")] if masked else []
        ),
        commands=next_commands(Path(record["out"])),
        facts=PageTable(headings=["setting", "value"], parts=[("", facts(results, record), "")], kind="left"),
        stages=PageTable(headings=["stage", "time", "made"], parts=[("", stages, "")], kind="left"),
    )
    return str(before), str(after)


def visible(text: str) -> str:
    """Return a token's text with its white space made visible: · for a space, ⏎ for a line end, ⇥ for a tab.

    Four or more spaces become ·×n, so that indentation does not fill the drawing.
    """
    for character, mark in (("\r", ""), ("\n", "⏎"), ("\t", "⇥")):
        text = text.replace(character, mark)
    return re.sub(" {4,}", lambda run: f"·×{len(run[0])}", text).replace(" ", "·")


def facts(results: Results, record: Record) -> list[Row]:
    """Return what both arms share, as (name, value)."""
    settings, corpus, machine = results.settings, record["corpus"], record["machine"]
    peak = settings.get("peak_tflops_per_device")
    return [
        (
            "model",
            f"Llama-shaped, {settings['num_layers']} layers, width {settings['hidden_size']}, "
            f"{settings['num_attention_heads']} heads in {settings['num_query_groups']} groups, "
            f"sequence {settings['seq_length']}",
        ),
        ("corpus", f"{corpus['num_bytes'] / 1e6:.1f} MB, {corpus['num_documents']:,} modules of the standard library"),
        (
            "tokenizer",
            f"byte-level BPE, {corpus['vocab_size']:,} pieces, {corpus['bytes_per_token']:.2f} bytes per token",
        ),
        ("indexed tokens", f"{corpus['num_tokens']:,}"),
        ("machine", f"{machine['cores']} cores ({machine['processor']}), {machine['threads_per_arm']} thread per arm"),
        ("peak for MFU", f"{peak * 1e3:,.0f} GFLOP/s: fp32 matrix product on one thread, measured" if peak else "–"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]


def headline(ntp: Results, meap: Results) -> str:
    """Return the result in one line, for the terminal, the picture and the page's head."""
    losses = [
        f"{name} {result.validation_loss or float('nan'):.3f}" for name, result in (("NTP", ntp), ("MEAP", meap))
    ]
    ratio = step_ratio(ntp, meap)
    cost = "unknown" if ratio is None else f"× {ratio:.3f}"
    return f"Validation loss on clean inputs: {', '.join(losses)}; MEAP step / NTP step: {cost}"


def step_ratio(ntp: Results, meap: Results) -> float | None:
    """Return the median time of a MEAP step over that of an NTP step, None where one of the two is not known."""
    numerator, denominator = meap.median("seconds"), ntp.median("seconds")
    return numerator / denominator if numerator is not None and denominator else None


def next_commands(out: Path) -> list[tuple[str, list[str]]]:
    """Return the commands to continue with, as (what it is for, command lines)."""
    recipe, tokenizer = shlex.quote(str(out / "recipes" / "meap.yaml")), shlex.quote(str(out / "tokenizer"))
    return [
        (
            "your own text: .txt, .jsonl, .parquet, also .gz and .zst, with any tokenizer folder",
            [f"meap preprocess text my_text/ --tokenizer {tokenizer} --output data/mine", "meap verify data/mine"],
        ),
        ("this model on it, longer", [f"meap train {recipe} data_path=data/mine save=runs/mine train_iters=3000"]),
        (
            "a model of the paper on the GPUs of one machine (recipes: 0.1B, 0.3B, 0.5B, 1.1B)",
            [
                *([] if Path("examples/recipes").is_dir() else ["meap init --examples"]),
                "meap train examples/recipes/pretrain/llama_0.1b_meap.yaml data_path=data/mine save=runs/llama nproc=8",
            ],
        ),
        (
            "the same on SLURM: start one task per GPU, the ranks are read from the environment",
            [
                "srun --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 \\",
                "    meap train examples/recipes/pretrain/llama_1.1b_meap.yaml data_path=data/mine save=runs/llama",
            ],
        ),
    ]
