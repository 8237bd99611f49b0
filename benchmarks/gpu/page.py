"""The tables of docs/benchmarks/gpu.md, made from results.json; without results every cell says so."""

from pathlib import Path
from typing import Any

from benchmarks.gpu import speed
from benchmarks.gpu.catalogue import CHECKS
from benchmarks.gpu.figure import text
from benchmarks.gpu.results import NOT_APPLICABLE, SKIPPED
from benchmarks.gpu.session import ROOT

PAGE = ROOT / "docs" / "benchmarks" / "gpu.md"
BEGIN, END = "<!-- results: made by `python -m benchmarks.gpu --page` -->", "<!-- end of results -->"
NOT_MEASURED = "not measured: no card was at hand"
SEEDS = "1234 (checks b to e, i, j), 3407 (throughput and ratios)"
Table = list[list[str]]


def fill(page: str, results: dict[str, Any] | None) -> str:
    """Return a page whose part between the two markers is made from results.

    Raises:
        ValueError: a marker is missing.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}"


def write(path: Path, results: dict[str, Any] | None) -> None:
    """Fill a page on disk; a page that is not there gets the tables alone."""
    page = path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}\n{END}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fill(page, results), encoding="utf-8")


def tables(results: dict[str, Any] | None) -> str:
    """Return the card, the throughput, all checks, and every figure of the checks that have run."""
    checks = (results or {}).get("checks", {})
    parts = [
        "### Card\n\n" + markdown(["", "value"], card(results)),
        "### Throughput\n\n" + markdown(THROUGHPUT_HEAD, throughput(checks)),
        "### Checks\n\n" + markdown(["", "check", "what", "result", "seconds"], overview(checks)),
    ]
    for name in CHECKS:
        if figures := checks.get(name, {}).get("figures"):
            rows = [[one["name"], shown(one), one["expected"], one["verdict"]] for one in figures]
            parts.append(f"### {name}\n\n" + markdown(["figure", "measured", "expected", "verdict"], rows))
    return "\n\n".join(parts)


def card(results: dict[str, Any] | None) -> Table:
    """Return the rows that identify the run, as a verification card has them."""
    if results is None:
        names = ("date", "commit", "GPU", "driver, CUDA, cuDNN, NCCL", "torch, Megatron-Core, Transformer Engine")
        rows = [[name, NOT_MEASURED] for name in names]
        return [
            *rows,
            ["command", "`make gpu-check`"],
            ["seed", SEEDS],
            ["interrupted resume matches", NOT_MEASURED],
            ["MEAP / NTP step at 1.1B, in turns", NOT_MEASURED],
        ]
    machine = results["checks"].get("machine", {}).get("detail", {}).get("machine", {})

    def of(*names: str) -> str:
        return ", ".join(str(machine.get(name, "unknown")) for name in names)

    small = " (tiny sizes: the figures mean nothing)" if results["quick"] else ""
    gpu = f"{of('gpu')}, {of('gpu_memory_gb')} GB" if results["device"] == "cuda" else f"none, a CPU{small}"
    resumes = [
        f"{one['name'].split(':')[0]} {text(one['value'])}"
        for one in results["checks"].get("resume", {}).get("figures", [])
        if "matches" in one["name"]
    ]
    ratios = [value(results["checks"], name, "MEAP / NTP, median of turns") for name in ("ratio_1.1b",)]
    return [
        ["date", results["date"]],
        ["commit", results["commit"]],
        ["GPU", gpu],
        ["driver, CUDA, cuDNN, NCCL", of("driver", "cuda", "cudnn", "nccl")],
        ["torch, Megatron-Core, Transformer Engine", of("torch", "megatron-core", "transformer-engine")],
        ["command", "; ".join(f"`{command}`" for command in results["commands"])],
        ["seed", SEEDS],
        ["interrupted resume matches", ", ".join(resumes) or NOT_MEASURED],
        ["MEAP / NTP step at 1.1B, in turns", *ratios],
    ]


THROUGHPUT_HEAD = (
    "size|format|tokens/s|to reach|model TFLOP/s|MFU|s/step|`meap plan`|peak GB (allocated)|`meap plan`|data wait, ms"
).split("|")


def throughput(checks: dict[str, Any]) -> Table:
    """Return one row per size and format."""
    rows = []
    for name, check in CHECKS.items():
        if not name.startswith("throughput_"):
            continue
        size, precision = check.run.keywords["size"], check.run.keywords["precision"]  # type: ignore[attr-defined]
        goal = speed.TOKENS_PER_SECOND.get(size) if precision == "bf16" else None
        if name == "throughput_1.1b_fp8":
            reach = f"{speed.FP8_GAIN:g} x BF16"
        else:
            reach = "" if goal is None else text(goal)
        figures = (
            "tokens/s", "model TFLOP/s", "MFU", "step", f"`meap plan` for {plan_gpu(checks, name)}: step",
            "peak memory, allocated", "`meap plan`: memory", "wait for data, median",
        )  # fmt: skip
        cells = [value(checks, name, figure) for figure in figures]
        rows.append([size.upper(), precision, cells[0], reach, *cells[1:]])
    return rows


def plan_gpu(checks: dict[str, Any], name: str) -> str:
    """Return the GPU that a check has planned for."""
    figures = checks.get(name, {}).get("figures", [])
    found = [one["name"] for one in figures if one["name"].startswith("`meap plan` for ")]
    return found[0].removeprefix("`meap plan` for ").removesuffix(": step") if found else ""


def value(checks: dict[str, Any], check: str, figure: str) -> str:
    """Return a figure as a cell, or why it is not there."""
    one = checks.get(check)
    if one is None:
        return "not measured"
    for found in one.get("figures", []):
        if found["name"] == figure:
            return text(found["value"])
    return one["status"] if one["status"] in (NOT_APPLICABLE, SKIPPED) else "-"


def overview(checks: dict[str, Any]) -> Table:
    """Return one row per check."""
    rows = []
    for name, check in CHECKS.items():
        one = checks.get(name)
        if one is None:
            rows.append(
                [
                    check.letter,
                    f"`{name}`",
                    check.title,
                    "not run" if checks else NOT_MEASURED,
                    f"{check.seconds:.0f} expected",
                ]
            )
            continue
        reason = (one.get("reason") or "").splitlines()
        status = f"{one['status']}: {cell(reason[0])}" if reason else one["status"]
        rows.append([check.letter, f"`{name}`", check.title, status, text(one.get("seconds", ""))])
    return rows


def shown(figure: dict[str, Any]) -> str:
    """Return a value with its unit."""
    return cell(f"{text(figure['value'])} {figure['unit']}".strip())


def cell(text: str) -> str:
    """Return text that a table takes."""
    return text.replace("|", "\\|").replace("\n", " ")


def markdown(head: list[str], rows: Table) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
