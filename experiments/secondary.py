"""What is measured on the models of an experiment at their end: loss on text, and attention of each pair.

python -m experiments.secondary --arms runs/repeated/arms --baseline ntp --model mask15 \\
    --text runs/repeated/data/valid --lengths 128 --limit 200 --record docs/experiments/repeated_data/secondary

Models are `ARM-seed-N/run` (or `ARM-seed-N/hf`, exported already) below `--arms`; a pair is two models of one seed. Every
suite of `meap evaluate` that is named runs once for each model, or once for each pair; finished ones are not repeated.
Table 10 and Figure 6 of the paper are the suites `attention` and `regions`; both read each model on clean and on masked
input, so that what the model does is told from what the input does.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.drawing import clean, estimate, row
from experiments.runs import meap
from experiments.statistics import contrast
from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.evaluation.suites import SUITES

TESTS = re.compile(r"(.+_)?(t|p)")
"""Keys of statistics of one pair; what counts here is how pairs of several seeds scatter."""


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """Return the numbers of a headline by dotted name; of a mean with its interval the mean, and no test of one pair."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, (int, float)):
        return {name: float(value)}
    if isinstance(value, dict):
        if "mean" in value:
            return numbers(value["mean"], name)
        items = value.items()
    else:
        items = dict(enumerate(value)).items()
    found: dict[str, float] = {}
    for key, item in items:
        if TESTS.fullmatch(str(key)):
            continue
        found |= numbers(item, f"{name}.{key}".lstrip("."))
    return found


def exported(folder: Path) -> Path:
    """Return the Hugging Face folder of a model, exported if it is not there.

    Raises:
        UserError: there is neither a run nor an export.
    """
    target = folder / "hf"
    if not (target / "config.json").is_file():
        if not (folder / "run").is_dir():
            raise UserError(f"{folder} has neither run/ nor hf/; --arms is the folder of an experiment's runs")
        meap("convert", "export", folder / "run", target)
    return target


def seeds_of(arms: Path, *names: str) -> list[int]:
    """Return the seeds for which every named arm is there."""
    found = [{int(path.name.rsplit("-", 1)[1]) for path in arms.glob(f"{name}-seed-*")} for name in names]
    return sorted(set.intersection(*found))


def measure(args: argparse.Namespace, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return suite -> arm (of pairs: "pair") -> numbers, for one seed."""
    models = {name: exported(args.arms / f"{name}-seed-{seed}") for name in (args.baseline, args.model)}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for suite in args.suites:
        pair = SUITES[suite].pair
        result[suite] = {}
        for name, folder in {"pair": models[args.model]}.items() if pair else models.items():
            out = args.arms.parent / "secondary" / f"{name}-seed-{seed}"
            out = out.with_name(f"{args.model}-{args.baseline}-seed-{seed}") if pair else out
            words = ["evaluate", suite, "--model", folder, "--out", out, "--text", args.text]
            words += ["--baseline", models[args.baseline]] if pair else []
            words += ["--lengths", args.lengths] if args.lengths and suite != "regions" else []
            words += ["--limit", str(args.limit)] if args.limit else []
            meap(*words)
            document = json.loads((out / f"{suite}.json").read_text(encoding="utf-8"))
            result[suite][name] = numbers(document["headline"])
    return result


def table(found: dict[int, dict[str, Any]], *, model: str, baseline: str) -> str:
    """Return the table: of suites of one model the difference `model` - `baseline`, of pairs the value itself."""
    lines = [row(["suite", "number", baseline, model, "difference or value of the pair", "p, t", "seeds"])]
    lines.append(row(["---"] * 7))
    for suite in next(iter(found.values())):
        per_seed = {seed: suites[suite] for seed, suites in found.items()}
        arms = ("pair",) if "pair" in next(iter(per_seed.values())) else (baseline, model)
        for name in next(iter(per_seed.values()))[arms[0]]:
            values = {arm: {seed: arm_values[arm][name] for seed, arm_values in per_seed.items()} for arm in arms}
            means = [f"{sum(v.values()) / len(v):.4f}" for v in values.values()] if len(arms) == 2 else ["", ""]
            first = values[arms[0]] if len(arms) == 2 else dict.fromkeys(found, 0.0)
            c = contrast(first, values[arms[-1]])
            shown = estimate(c["mean"], c["low"], c["high"], sign="+")
            lines.append(row([suite, name, *means, shown, f"{c['p_t']:.3f}", str(len(c["seeds"]))]))
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, write `MODEL-BASELINE.json` and `.md`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.secondary", description=__doc__)
    parser.add_argument("--arms", type=Path, required=True, help="folder of the runs of an experiment")
    parser.add_argument("--baseline", required=True, help="arm that was trained with NTP")
    parser.add_argument("--model", required=True, help="arm to compare with it")
    parser.add_argument("--text", type=Path, required=True, help="held-out text: see meap evaluate attention")
    parser.add_argument("--lengths", help="tokens of a sequence")
    parser.add_argument("--limit", type=int, help="sequences")
    parser.add_argument("--suites", type=lambda text: text.split(","), default=["text-loss", "attention"])
    parser.add_argument("--record", type=Path, required=True, help="folder of the results")
    args = parser.parse_args(words)
    try:
        if unknown := [suite for suite in args.suites if suite not in SUITES]:
            raise UserError(f"there is no suite '{unknown[0]}'; suites: {', '.join(SUITES)}")
        seeds = seeds_of(args.arms, args.baseline, args.model)
        if not seeds:
            raise UserError(f"{args.arms} has no seed of both {args.baseline} and {args.model}")
        found = {seed: measure(args, seed) for seed in seeds}
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    args.record.mkdir(parents=True, exist_ok=True)
    name = f"{args.model}-{args.baseline}"  # of arms such as ratio-0.15: their ".15" is not a suffix
    text = table(found, model=args.model, baseline=args.baseline)
    replace_text(args.record / f"{name}.json", json.dumps(clean(found), indent=1) + "\n")
    replace_text(args.record / f"{name}.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
