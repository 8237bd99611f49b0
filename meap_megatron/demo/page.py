"""The demo's page: one HTML file without anything to load. Pure functions of results."""

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

from meap_megatron.demo import retrieval, tables
from meap_megatron.demo.run_numbers import Record, mask_fraction, parameter_count
from meap_megatron.demo.sample import Cell
from meap_megatron.demo.sample_html import sample_boxes
from meap_megatron.demo.style import CSS
from meap_megatron.formats import duration
from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.history import Results, read_results
from meap_megatron.report.page import cards
from meap_megatron.report.tables import table
from meap_megatron.report.training import curves_of

WHAT_IT_IS = (
    "MEAP, mask-enhanced autoregressive prediction (arXiv 2502.07490), is next-token prediction (NTP) with one change: "
    "a random 15 % of the input tokens are replaced by [MASK] before the model reads them. The targets, the causal "
    "attention, the architecture and the loss over all positions stay as they are, so a step costs the same, and nothing "
    "is masked when the trained model is used. With part of its context hidden, the model has to predict from the rest."
)
WHAT_IT_DOES_NOT_SHOW = (
    "The paper claims that MEAP finds information in long contexts better, measured on models of 0.3 to 1.1 billion "
    "parameters pre-trained on 5 to 200 billion tokens. A model of this size, trained for minutes, cannot confirm or "
    "refute that: it has not learned to retrieve anything yet. One seed was run, so do not read a ranking into a "
    "difference of a tenth between the arms. What the page does show is that the whole path works on this machine, from "
    "raw text to two models trained by Megatron's own trainer, that both arms start from the same weights and read the "
    "same data in the same order, and what masking costs in time."
)


def build_page(*, runs: Sequence[ReportedRun], sample: Sequence[Cell], record: Record) -> str:
    """Return the page.

    Args:
        runs: the NTP and the MEAP arm, with their training and, where they were evaluated, their results.
        sample: the cells to draw.
        record: of the demo, see `stages.demo`: corpus, machine, versions, stages, paths.
    """
    ntp, meap = (read_results(run.metrics) for run in runs)
    lead = (
        f"Two language models of {parameter_count(ntp.settings) / 1e6:.1f} million parameters, trained side by side on "
        f"{ntp.consumed_tokens:,} tokens each of Python's standard library by Megatron-Core, on "
        f"{record['machine']['cores']} CPU cores in {duration(record['seconds'], digits=1)} from raw text to this page."
    )
    sections = [
        f'<h1>MEAP beside next-token prediction</h1><p class="lead">{escape(lead)}</p>',
        tiles(ntp, meap),
        f"<p>{escape(WHAT_IT_IS)}</p>",
        "<h2>One training sample</h2>",
        '<p class="note">Above, what the model reads; beneath, what it has to predict. Highlighted inputs are masked; '
        "their predictions, and those of all others, count in the loss alike. The last position is never masked. "
        f"{len(sample)} of {ntp.settings['seq_length']} positions of sample {record['sample_index']}, as training read it "
        "(· space, ⏎ line end).</p>",
        f'<div class="card">{sample_boxes(sample)}</div>',
        "<h2>Training</h2>",
        cards(curves_of(runs)),
        "<h2>Both arms in numbers</h2>",
        comparison_table(tables.comparison(ntp, meap, record["masked_validation"])),
        '<p class="note">Losses in nats per token. The two arms are comparable where they read the '
        "same inputs: in the two validations. Both arms ran at the same time; where other programs use the processors too, "
        "the ratio of the step times moved by up to twelve per cent from run to run.</p>",
        "<h2>Retrieval</h2>",
        retrieval_section(runs, record["retrieval"]),
        "<h2>What this does not show</h2>",
        f"<p>{escape(WHAT_IT_DOES_NOT_SHOW)}</p>",
        "<h2>Go on with your own text</h2>",
        commands_block(record),
        "<h2>How it was made</h2>",
        table(["setting", "value"], [("", escaped(tables.facts(ntp, record)), "")], kind="left"),
        table(["stage", "time", "made"], [("", escaped(tables.stage_rows(record["stages"])), "")], kind="left"),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>MEAP demo</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Return text for HTML; [MASK] is set as code."""
    return html.escape(text).replace("[MASK]", "<code>[MASK]</code>")


def escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the cells of a table for HTML."""
    return [[escape(cell) for cell in row] for row in rows]


def tiles(ntp: Results, meap: Results) -> str:
    """Return the four numbers at the head of the page."""
    cost = tables.step_ratio(ntp, meap)
    entries = [
        ("ntp", tables.loss(ntp.validation_loss), "NTP: validation loss, clean inputs"),
        ("meap", tables.loss(meap.validation_loss), "MEAP: validation loss, clean inputs"),
        ("", "–" if cost is None else f"{cost:.3f}", "time of a MEAP step over that of an NTP step"),
        ("", tables.per_cent(mask_fraction(meap)), "of MEAP's input tokens were masked"),
    ]
    boxes = "".join(
        f'<div class="tile {style}"><b>{value}</b><span>{what}</span></div>' for style, value, what in entries
    )
    return f'<div class="tiles">{boxes}</div>'


def comparison_table(rows: Sequence[tables.TableRow]) -> str:
    """Return the comparison as a table."""
    parts = [
        ("", [[escape(row.name), row.ntp, row.meap, row.compared]], "strong" if row.strong else "part" * row.is_part)
        for row in rows
    ]
    return table(["", "NTP", "MEAP", "MEAP to NTP"], parts)


def retrieval_section(runs: Sequence[ReportedRun], state: str) -> str:
    """Return the scores of both arms beside their floors, or why there are none.

    Args:
        runs: both arms.
        state: what is said where nothing was scored.
    """
    rows = retrieval.score_rows(runs)
    if not rows:
        return f'<p class="note">{escape(state)}</p>'
    headings = ["", "ROUGE-1 recall (%)", "floor: no needle (%)", "strict hit (%)", "samples with + without"]
    note = (
        "Needle in a haystack, after export to Hugging Face: a sentence hidden in essays is asked for. In brackets 95 % "
        "bootstrap intervals over samples. "
    )
    return (
        f'{table(headings, [("", rows, "ours")])}<p class="note">{escape(note + retrieval.EXPECTED)} All settings, cell by '
        'cell: <a href="report.html">report.html</a>.</p>'
    )


def next_commands(out: Path) -> list[tuple[str, list[str]]]:
    """Return the commands to go on with, as (what it is for, command lines)."""
    recipe, tokenizer = shlex.quote(str(out / "recipes" / "meap.yaml")), shlex.quote(str(out / "tokenizer"))
    return [
        (
            "your own text: .txt, .jsonl, .parquet, also .gz and .zst, with any tokenizer folder",
            [f"meap preprocess text my_text/ --tokenizer {tokenizer} --output data/mine", "meap verify data/mine"],
        ),
        ("this model on it, longer", [f"meap train {recipe} data_path=data/mine save=runs/mine train_iters=3000"]),
        (
            "a model of the paper on the GPUs of one machine (recipes: 0.1B, 0.3B, 0.5B, 1.1B)",
            ["meap train examples/recipes/pretrain/llama_0.1b_meap.yaml data_path=data/mine save=runs/llama nproc=8"],
        ),
        (
            "the same on SLURM: start one task per GPU, the ranks are read from the environment",
            [
                "srun --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 \\",
                "    meap train examples/recipes/pretrain/llama_1.1b_meap.yaml data_path=data/mine save=runs/llama",
            ],
        ),
    ]


def commands_block(record: Record) -> str:
    """Return the commands to go on with as HTML."""
    blocks = [
        "\n".join([f'<span class="say"># {html.escape(purpose)}</span>', *map(html.escape, lines)])
        for purpose, lines in next_commands(Path(record["out"]))
    ]
    return f"<pre>{(chr(10) * 2).join(blocks)}</pre>"
