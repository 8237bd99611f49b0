"""The demo's page: one HTML file without anything to load. Pure functions of results."""

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

from meap_megatron.demo import tables
from meap_megatron.demo.figures import Curve, line_chart, sample_boxes
from meap_megatron.demo.results import Record, Results, parameter_count, ratio, smoothed
from meap_megatron.demo.sample import Cell
from meap_megatron.demo.style import CSS

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


def build_page(
    *,
    ntp: Results,
    meap: Results,
    masked_validation: dict[str, Record],
    sample: Sequence[Cell],
    record: Record,
) -> str:
    """Return the page.

    Args:
        ntp: the NTP arm.
        meap: the MEAP arm.
        masked_validation: by arm, the validation record on masked inputs.
        sample: the cells to draw.
        record: of the demo, see `run.demo`: corpus, machine, versions, stages, paths.
    """
    lead = (
        f"Two language models of {parameter_count(ntp.settings) / 1e6:.1f} million parameters, trained side by side on "
        f"{ntp.consumed_tokens:,} tokens each of Python's standard library by Megatron-Core, on "
        f"{record['machine']['cores']} CPU cores in {tables.clock(record['seconds'])} from raw text to this page."
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
        "<h2>Loss</h2>",
        f'<div class="charts">{charts(ntp, meap)}</div>',
        "<h2>Both arms in numbers</h2>",
        f'<div class="card scroll">{comparison_table(tables.comparison(ntp, meap, masked_validation))}</div>',
        '<p class="note" style="margin-top:10px">Losses in nats per token. The two arms are comparable where they read the '
        "same inputs: in the two validations. Both arms ran at the same time; where other programs use the processors too, "
        "the ratio of the step times moved by up to twelve per cent from run to run.</p>",
        "<h2>What this does not show</h2>",
        f"<p>{escape(WHAT_IT_DOES_NOT_SHOW)}</p>",
        "<h2>Go on with your own text</h2>",
        commands_block(record),
        "<h2>How it was made</h2>",
        f'<div class="card scroll">{pair_table(tables.facts(ntp, record))}</div><p></p>',
        f'<div class="card scroll">{stage_table(tables.stage_rows(record["stages"]))}</div>',
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


def tiles(ntp: Results, meap: Results) -> str:
    """Return the four numbers at the head of the page."""
    cost = ratio(meap.step_seconds, ntp.step_seconds)
    entries = [
        ("ntp", tables.loss(ntp.validation_loss), "NTP: validation loss, clean inputs"),
        ("meap", tables.loss(meap.validation_loss), "MEAP: validation loss, clean inputs"),
        ("", "–" if cost is None else f"{cost:.3f}", "time of a MEAP step over that of an NTP step"),
        ("", tables.per_cent(meap.mask_fraction), "of MEAP's input tokens were masked"),
    ]
    boxes = "".join(
        f'<div class="tile {style}"><b>{value}</b><span>{what}</span></div>' for style, value, what in entries
    )
    return f'<div class="tiles">{boxes}</div>'


def charts(ntp: Results, meap: Results) -> str:
    """Return the charts as cards."""
    window = max(1, ntp.num_steps // 30)

    def curve(results: Results, field: str, label: str, style: str, *, raw: bool = True) -> Curve:
        points = results.points(field)
        return Curve(label=label, points=smoothed(points, window=window), style=style, faint=points if raw else [])

    validation = line_chart(
        [
            Curve(label="NTP", points=ntp.validation_points(), style="ntp", dots=True),
            Curve(label="MEAP", points=meap.validation_points(), style="meap", dots=True),
        ],
        x_label="step",
        y_label="nats per token",
        title="validation loss on clean inputs of both arms",
    )
    training = line_chart(
        [curve(ntp, "lm_loss", "NTP, clean inputs", "ntp"), curve(meap, "lm_loss", "MEAP, masked inputs", "meap")],
        x_label="step",
        y_label="nats per token",
        title="training loss of both arms",
    )
    parts = line_chart(
        [
            curve(meap, "masked_loss", "positions that read [MASK]", "masked"),
            curve(meap, "other_loss", "other positions of MEAP", "other"),
            curve(ntp, "lm_loss", "all positions of NTP", "ntp", raw=False),
        ],
        x_label="step",
        y_label="nats per token",
        title="training loss of the MEAP arm at masked and at other positions",
    )
    rate = line_chart(
        [
            Curve(label="NTP", points=smoothed(ntp.points("tokens_per_second"), window=window), style="ntp"),
            Curve(label="MEAP", points=smoothed(meap.points("tokens_per_second"), window=window), style="meap"),
        ],
        x_label="step",
        y_label="tokens per second",
        title="throughput of both arms",
        from_zero=True,
    )
    cards = [
        ("Validation, clean inputs", "Comparable: both arms read the same unmasked text.", validation),
        ("Training", "Not comparable: MEAP predicts from masked inputs, which is harder.", training),
        ("Where MEAP's loss comes from", "At [MASK] the next token is predicted without the current one.", parts),
        ("Throughput", "Both arms at the same time, one thread each.", rate),
    ]
    return "".join(
        f'<div class="card"><h3>{escape(title)}</h3><p class="note">{escape(note)}</p>{chart}</div>'
        for title, note, chart in cards
    )


def comparison_table(rows: Sequence[tables.Row]) -> str:
    """Return the comparison as a table."""
    body = "".join(
        f'<tr class="{"strong" if row.strong else ""}">'
        f'<td class="{"part" if row.name.startswith("…") else ""}">{escape(row.name)}</td>'
        f"<td>{row.ntp}</td><td>{row.meap}</td><td>{row.compared}</td></tr>"
        for row in rows
    )
    return f"<table><tr><th></th><th>NTP</th><th>MEAP</th><th>MEAP to NTP</th></tr>{body}</table>"


def pair_table(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values as a table."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in pairs)
    return f'<table class="pairs">{body}</table>'


def stage_table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return the stages with their times as a table."""
    body = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in rows)
    return f'<table class="stages">{body}</table>'


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
