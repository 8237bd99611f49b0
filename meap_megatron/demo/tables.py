"""The numbers of the page as rows of text. Pure functions of results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meap_megatron.demo.run_numbers import Record, mask_fraction, parameter_count, ratio
from meap_megatron.formats import duration
from meap_megatron.report.history import Results


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One line of the comparison."""

    name: str
    ntp: str
    meap: str
    compared: str = ""
    """MEAP against NTP."""
    strong: bool = False
    """A line that a reader should find first."""

    @property
    def is_part(self) -> bool:
        """Tell whether this is a part of the line above."""
        return self.name.startswith("…")


def loss(value: float | None) -> str:
    """Return a loss in nats per token."""
    return "–" if value is None else f"{value:.3f}"


def difference(first: float | None, second: float | None) -> str:
    """Return second minus first with its sign."""
    return "–" if first is None or second is None else f"{second - first:+.3f}"


def per_cent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in per cent."""
    return "–" if value is None else f"{value:.{digits}%}".replace("%", " %")


def times(value: float | None) -> str:
    """Return a quotient."""
    return "–" if value is None else f"× {value:.3f}"


def whole(value: float | None) -> str:
    """Return a count with separators."""
    return "–" if value is None else f"{value:,.0f}"


def comparison(ntp: Results, meap: Results, masked_validation: dict[str, Record]) -> list[TableRow]:
    """Return the comparison of both arms.

    Args:
        ntp: the NTP arm.
        meap: the MEAP arm.
        masked_validation: by arm, the validation record on masked inputs; empty if it was not made.
    """
    rows = [
        TableRow(
            name="validation loss, clean inputs",
            ntp=loss(ntp.validation_loss),
            meap=loss(meap.validation_loss),
            compared=difference(ntp.validation_loss, meap.validation_loss),
            strong=True,
        )
    ]
    for field, what in (("lm_loss", "masked inputs"), ("masked_loss", "… at [MASK]"), ("other_loss", "… elsewhere")):
        values = [masked_validation.get(name, {}).get(field) for name in ("ntp", "meap")]
        if any(value is not None for value in values):
            name = f"validation loss, {what}" if field == "lm_loss" else what
            rows.append(TableRow(name=name, ntp=loss(values[0]), meap=loss(values[1]), compared=difference(*values)))
    rows += [
        TableRow(
            name="training loss, last tenth (not comparable: other inputs)",
            ntp=loss(ntp.final("lm_loss")),
            meap=loss(meap.final("lm_loss")),
        ),
        TableRow(name="… at [MASK]", ntp="–", meap=loss(meap.final("masked_loss"))),
        TableRow(name="… elsewhere", ntp=loss(ntp.final("other_loss")), meap=loss(meap.final("other_loss"))),
        TableRow(name="input tokens masked", ntp=per_cent(mask_fraction(ntp)), meap=per_cent(mask_fraction(meap))),
        TableRow(
            name="tokens/s, median step",
            ntp=whole(ntp.median("tokens_per_second")),
            meap=whole(meap.median("tokens_per_second")),
            compared=times(ratio(meap.median("tokens_per_second"), ntp.median("tokens_per_second"))),
        ),
        TableRow(
            name="time of a step, median",
            ntp=milliseconds(ntp.median("seconds")),
            meap=milliseconds(meap.median("seconds")),
            compared=times(step_ratio(ntp, meap)),
            strong=True,
        ),
        TableRow(name="MFU", ntp=per_cent(ntp.median("mfu"), 0), meap=per_cent(meap.median("mfu"), 0)),
    ]
    return rows


def step_ratio(ntp: Results, meap: Results) -> float | None:
    """Return the median time of a MEAP step over that of an NTP step."""
    return ratio(meap.median("seconds"), ntp.median("seconds"))


def milliseconds(seconds: float | None) -> str:
    """Return seconds in milliseconds."""
    return "–" if seconds is None else f"{seconds * 1e3:.0f} ms"


def facts(ntp: Results, record: Record) -> list[tuple[str, str]]:
    """Return what both arms share, as (name, value).

    Args:
        ntp: either arm.
        record: of the demo, see `stages.demo`.
    """
    settings, corpus, machine = ntp.settings, record["corpus"], record["machine"]
    peak = settings.get("peak_tflops_per_device")
    pairs = [
        ("model", shape(settings)),
        ("parameters", f"{parameter_count(settings):,}"),
        ("steps × tokens", f"{ntp.num_steps:,} × {settings['global_batch_size'] * settings['seq_length']:,}"),
        ("trained tokens per arm", f"{ntp.consumed_tokens:,}"),
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
    return pairs


def shape(settings: dict[str, Any]) -> str:
    """Return the model's shape in words."""
    return (
        f"Llama-shaped, {settings['num_layers']} layers, width {settings['hidden_size']}, "
        f"{settings['num_attention_heads']} heads in {settings['num_query_groups']} groups, "
        f"sequence {settings['seq_length']}"
    )


def headline(ntp: Results, meap: Results) -> str:
    """Return the result in one line, for the terminal and the page's head."""
    return (
        f"validation loss on clean inputs: NTP {loss(ntp.validation_loss)}, MEAP {loss(meap.validation_loss)}; "
        f"MEAP step / NTP step: {times(step_ratio(ntp, meap))}"
    )


def stage_rows(stages: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Return (stage, time, what it made)."""
    return [(stage["name"], duration(stage["seconds"], digits=1), stage["made"]) for stage in stages]
