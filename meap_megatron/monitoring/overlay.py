"""The comparison of two runs as text and as a picture over equal tokens."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from meap_megatron.atomic import disk_errors, replace_file
from meap_megatron.errors import counted
from meap_megatron.formats import aligned
from meap_megatron.monitoring.compare import Difference, RunComparison
from meap_megatron.monitoring.records import History, value

FORMATS = (".png", ".svg", ".pdf")
COLOURS = ("#3b6fb5", "#d2561e")
INK = "#5f6673"


def lines(found: RunComparison, names: Sequence[str], *, tolerance: float) -> list[str]:
    """Return the comparison as text.

    Args:
        tolerance: with which they were compared.
    """
    steps = [counted(last, "step") for last in found.last_steps]
    text = [f"a: {names[0]}, {steps[0]}", f"b: {names[1]}, {steps[1]}"]
    if found.settings:
        text.append("settings that differ:")
        text += [f"  {name}: {first} | {second}" for name, (first, second) in found.settings.items()]
    measure = "to the last bit" if tolerance == 0 else f"within {tolerance:g} relative"
    over = f"{counted(found.common_steps, 'common step')} and {counted(found.common_validations, 'validation')}"
    if not found.common_steps:
        text.append("no step is in both")
    elif found.difference is None:
        text.append(f"equal {measure} over {over}")
    else:
        text.append(f"first difference: {difference_text(found.difference)}")
        text.append(f"largest difference of a training loss over {over}: {found.largest_relative:.3g} relative")
    if found.rows and (found.difference is not None or not found.common_steps):
        text += table(found)
    if "meap_mask_ratio" in found.settings:
        text.append("training losses are on inputs masked differently; the validation losses are comparable")
    return text


def difference_text(found: Difference) -> str:
    """Return one difference as text, with all digits."""
    where = "step" if found.kind == "step" else "validation at step"
    gap = "" if found.relative is None else f" ({found.relative:.3g} relative)"
    return f"{where} {found.step:,}, {found.field}: {found.first!r} | {found.second!r}{gap}"


def table(found: RunComparison) -> list[str]:
    """Return the losses at equal tokens as aligned columns."""
    validated = any(row.first_validation is not None or row.second_validation is not None for row in found.rows)
    heads = ["tokens", "loss a", "loss b", "b - a", *(["val. a", "val. b", "b - a"] if validated else [])]
    rows = []
    for row in found.rows:
        cells = [f"{row.tokens:,}", *triple(row.first, row.second)]
        rows.append(cells + (triple(row.first_validation, row.second_validation) if validated else []))
    return [
        "at equal tokens (training: mean of the last 2 % of the steps; validation: the newest):",
        *(f"  {line}" for line in aligned([heads, *rows])),
    ]


def triple(first: float | None, second: float | None) -> list[str]:
    """Return two losses and their difference as cells."""
    gap = None if first is None or second is None else second - first
    return ["-" if number is None else f"{number:.4f}" for number in (first, second)] + [
        "-" if gap is None else f"{gap:+.4f}"
    ]


def smoothed(values: Sequence[float], *, window: int) -> list[float]:
    """Return the mean over the `window` values up to each value; fewer at the beginning."""
    return [statistics.fmean(values[max(0, place - window) : place]) for place in range(1, len(values) + 1)]


def draw(path: Path, histories: Sequence[History], names: Sequence[str]) -> None:
    """Write the picture: training loss and validation loss of both runs over tokens, complete or not at all.

    Args:
        path: .png, .svg or .pdf.

    Raises:
        RunError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.3), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2)
    for history, name, colour in zip(histories, names, COLOURS, strict=True):
        tokens = {record["step"]: record["consumed_tokens"] for record in history.steps}
        parts = (history.steps, [record for record in history.validations if record["step"] in tokens])
        for axis, records, marker in zip(axes, parts, ("", "o"), strict=True):
            places = [tokens[record["step"]] for record in records if value(record, "lm_loss") is not None]
            losses = [loss for record in records if (loss := value(record, "lm_loss")) is not None]
            window = 1 if marker else max(1, len(losses) // 50)
            if window > 1:
                axis.plot(places, losses, color=colour, linewidth=0.5, alpha=0.3)
            if losses:
                axis.plot(places, smoothed(losses, window=window), color=colour, label=name, marker=marker)
    for axis, title in zip(axes, ("training loss", "validation loss"), strict=True):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("tokens", color=INK)
        axis.grid(color="#e3e1da", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, length=0)
        if axis.lines:
            axis.legend(frameon=False)
    axes[0].set_ylabel("nats per token", color=INK)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as stream:
        figure.savefig(stream, format=path.suffix[1:], facecolor="white")
