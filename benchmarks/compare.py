"""Name what became slower between two results of `make bench`.

    python benchmarks/compare.py OLD.json NEW.json [NEW2.json ...] [--threshold 1.25]

Only ratios are compared, never times: a ratio has both of its sides from one run, so that a slow machine slows both. A
document says which of its `ratios` are good when high (as a rule, the peer's time over ours), which are good when low
(`lower_is_better`), and which do not judge our code (`not_judged`). A ratio is slower when it is worse than before by
more than the threshold. Of several NEW files, runs of the same code, each ratio's best counts: noise rarely strikes twice.

Exit status: 0 nothing is slower, 1 something is slower or gone, 2 the input is not a pair of results.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing

THRESHOLD = 1.25


class BadInput(Exception):
    """A file that holds no results, or results that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ratio of one benchmark, before and now."""

    name: str
    """BENCHMARK.RATIO."""
    old: float
    new: float | None
    """None: it is gone."""
    change: float
    """How many times better (above 1) or worse (below 1) it became."""
    verdict: str
    """"slower", "faster", "same" or "gone"."""


def read(path: Path) -> dict[str, Any]:
    """Return the results of a file.

    Raises:
        BadInput: it cannot be read, or is not what benchmarks/run.py writes.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["format"] != 1:
            raise BadInput(f"{path} has format {results['format']}; this program reads 1")
        for record in results["benchmarks"].values():
            if any(not math.isfinite(ratio) or ratio <= 0 for ratio in record["document"].get("ratios", {}).values()):
                raise BadInput(f"{path} has a ratio that is not a number above 0")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path} holds no results of benchmarks/run.py") from None
    return results


def ratios(results: dict[str, Any]) -> dict[str, tuple[float, bool]]:
    """Return BENCHMARK.RATIO -> (ratio, whether lower is better), without those that are not judged."""
    found = {}
    for name, record in results["benchmarks"].items():
        document = record["document"]
        for ratio, value in document.get("ratios", {}).items():
            if ratio not in document.get("not_judged", ()):
                found[f"{name}.{ratio}"] = (float(value), ratio in document.get("lower_is_better", ()))
    return found


def arguments(results: dict[str, Any]) -> dict[str, list[str]]:
    """Return benchmark -> the arguments it ran with."""
    return {name: record["arguments"] for name, record in results["benchmarks"].items()}


def compare(old: dict[str, Any], news: list[dict[str, Any]], *, threshold: float) -> list[Row]:
    """Return one row per ratio of the old results, the worst change first.

    Args:
        old: results.
        news: results of one or several runs of other code; the best of each ratio counts.
        threshold: how many times worse a ratio may be.
    """
    rows = []
    for name, (before, lower_is_better) in ratios(old).items():
        after = [found[name][0] for found in map(ratios, news) if name in found]
        if not after:
            rows.append(Row(name=name, old=before, new=None, change=0.0, verdict="gone"))
            continue
        now = min(after) if lower_is_better else max(after)
        change = before / now if lower_is_better else now / before
        verdict = "slower" if change * threshold < 1 else "faster" if change > threshold else "same"
        rows.append(Row(name=name, old=before, new=now, change=change, verdict=verdict))
    return sorted(rows, key=lambda row: row.change)


def check_comparable(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    """Refuse results whose benchmarks ran with other arguments.

    Raises:
        BadInput: naming the benchmark.
    """
    before, now = arguments(old), arguments(new)
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise BadInput(
                f"{path}: {name} ran with {now[name] or 'no arguments'}, before with {before[name] or 'no arguments'}"
            )


def main(argv: list[str] | None = None) -> int:
    """Compare and print; see the module's text for the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="results before")
    parser.add_argument("new", type=Path, nargs="+", help="results now; of several, each ratio's best counts")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"times worse ({THRESHOLD})")
    args = parser.parse_args(argv)
    try:
        if not args.threshold >= 1:
            raise BadInput(f"--threshold {args.threshold} must be at least 1")
        old, news = read(args.old), [read(path) for path in args.new]
        for path, new in zip(args.new, news, strict=True):
            check_comparable(old, new, path)
        rows = compare(old, news, threshold=args.threshold)
        if not rows:
            raise BadInput(f"{args.old} holds no ratio")
    except BadInput as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    print(f"{old['commit']} ({old['date']}) -> {', '.join(f'{new["commit"]} ({new["date"]})' for new in news)}\n")
    table = [("ratio", "old", "new", "change", "")]
    for row in rows:
        new = "-" if row.new is None else f"{row.new:.2f}"
        table.append((row.name, f"{row.old:.2f}", new, f"{row.change:.2f}x", row.verdict.replace("same", "")))
    timing.print_table(*table)
    worse = [row for row in rows if row.verdict in ("slower", "gone")]
    print(f"\nworse by more than {args.threshold} times, or gone: {len(worse)} of {len(rows)} ratios")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
