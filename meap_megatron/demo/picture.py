"""`demo.png`: the loss curves as a picture, for places that take no HTML."""

from pathlib import Path

from meap_megatron.atomic import replace_file
from meap_megatron.demo.sections import headline
from meap_megatron.report.history import Results, smoothed

NTP, MEAP, MASKED, INK = "#3b6fb5", "#d2561e", "#b8860b", "#5f6673"


def draw_picture(path: Path, *, ntp: Results, meap: Results) -> None:
    """Write the picture: validation of both arms, training of both arms, MEAP's loss in parts."""
    from matplotlib.figure import Figure

    window = max(1, ntp.last_step // 30)
    figure = Figure(figsize=(13, 4.3), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    panels = [
        (
            "validation, clean inputs (comparable)",
            [(ntp.validation_points(), NTP, "NTP"), (meap.validation_points(), MEAP, "MEAP")],
        ),
        (
            "training (MEAP reads masked inputs)",
            [(ntp.points("lm_loss"), NTP, "NTP"), (meap.points("lm_loss"), MEAP, "MEAP")],
        ),
        (
            "MEAP's training loss in parts",
            [
                (meap.points("masked_loss"), MASKED, "positions that read [MASK]"),
                (meap.points("other_loss"), MEAP, "other positions"),
            ],
        ),
    ]
    for number, (axis, (title, lines)) in enumerate(zip(axes, panels, strict=True)):
        for points, colour, label in lines:
            if number == 0:
                axis.plot(*columns(points), color=colour, label=label, marker="o", markersize=4)
            else:
                axis.plot(*columns(points), color=colour, linewidth=0.6, alpha=0.3)
                axis.plot(*columns(smoothed(points, window=window)), color=colour, label=label)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step", color=INK)
        axis.grid(color="#e3e1da", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, length=0)
        # Beneath the axes: no curve is there.
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    axes[0].set_ylabel("loss, nats per token", color=INK)
    figure.suptitle(headline(ntp, meap), fontsize=11, color=INK)
    with replace_file(path) as stream:
        figure.savefig(stream, format="png", facecolor="white")


def columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return steps and values of points."""
    return [step for step, _ in points], [value for _, value in points]
