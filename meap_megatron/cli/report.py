"""`meap report`: results of evaluations and training runs on one page."""

import argparse
from pathlib import Path

HELP = """Draw results of `meap evaluate` and metrics of `meap train` as one self-contained HTML page.

  meap report runs/ntp runs/meap --out report.html
  meap report ntp=exports/a/evaluation meap=exports/b/evaluation --out report.html
  meap report meap=exports/b/evaluation meap=runs/b --out report.html      scores and training of one model
  meap report runs/meap                                                    a training run: report.html inside it

A folder is searched for results documents (needle.json, mdqa.json, ...) and metrics.jsonl. The label of a run is the
folder's name or the text before "="; one label given twice joins evaluation and training. The page begins with a verdict for
every suite: better, worse or no difference shown, against the baseline. Runs that were trained for different lengths are
drawn as score against training time and tokens (Figure 5); labels that end in numbers (NTP-1, NTP-2) make one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]DIR", help="folder of results, of a training run, or of both"
    )
    parser.add_argument("--out", "-o", metavar="FILE", help="the page (default: report.html in the first folder)")
    parser.add_argument(
        "--baseline",
        metavar="LABEL",
        help="the run that others are compared with (default: the one with ntp in its label, or the first)",
    )
    parser.add_argument("--title", help="heading of the page (default: MEAP evaluation, or MEAP training)")
    parser.add_argument("--overwrite", action="store_true", help="replace a page that exists")


def run(args: argparse.Namespace) -> int:
    """Read the runs and write the page."""
    from meap_megatron.errors import UserError
    from meap_megatron.report.collect import collect, split
    from meap_megatron.report.page import default_baseline, write

    out = Path(args.out) if args.out else split(args.runs[0])[1] / "report.html"
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} exists", fix="choose another --out, or --overwrite")
    runs = collect(args.runs)
    title = args.title or ("MEAP evaluation" if any(found.documents for found in runs) else "MEAP training")
    write(runs, out, baseline=default_baseline(runs, args.baseline), title=title)
    for found in runs:
        kinds = [*found.documents, *(["training"] if found.metrics else [])]
        print(f"{found.label}: {', '.join(kinds)}")
    print(f"report: {out}")
    return 0
