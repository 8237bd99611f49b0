"""`meap compare`: the first step at which two runs differ, and their losses at equal tokens."""

import argparse

HELP = """Compare two training runs: settings, the first step that differs, losses at equal tokens.

  meap compare runs/a runs/b
  meap compare runs/ntp runs/meap --out losses.png            a picture over tokens: .png, .svg or .pdf
  meap compare runs/tp1 runs/tp2 --tolerance 1e-5             two layouts add in another order
  meap compare runs/a runs/b --assert-equal                   for scripts

Compared at every step that both have: tokens, learning rate, mask fraction, losses, gradient norm; and validations.
Without --tolerance, equal means to the last bit. Of steps that were written twice, the later counts.

Exit status: 0; 1 and 2 as for every verb; with --assert-equal 7 if the runs differ, or one is longer."""

DIFFERENT = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs=2, metavar="DIR", help="the `save` folder of a run, or its metrics.jsonl")
    parser.add_argument("--tolerance", type=float, default=0.0, metavar="SHARE", help="relative difference allowed")
    parser.add_argument("--out", "-o", metavar="FILE", help="draw both runs over tokens: .png, .svg or .pdf")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    parser.add_argument("--assert-equal", action="store_true", help=f"exit status {DIFFERENT} if the runs differ")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the comparison and draw the picture."""
    import json
    from pathlib import Path

    from meap_megatron.errors import UserError
    from meap_megatron.monitoring.compare import compare
    from meap_megatron.monitoring.overlay import FORMATS, draw, lines
    from meap_megatron.monitoring.records import read_history

    if not 0 <= args.tolerance < 1:
        raise UserError(f"--tolerance {args.tolerance:g} must be at least 0 and below 1; it is relative, like 1e-5")
    out = Path(args.out) if args.out else None
    if out is not None and out.suffix not in FORMATS:
        raise UserError(f"--out {out} must end in {', '.join(FORMATS)}")
    if out is not None and out.exists() and not args.overwrite:
        raise UserError(f"{out} exists", fix="choose another --out, or --overwrite")
    first, second = (read_history(Path(name)) for name in args.runs)
    found = compare(first, second, tolerance=args.tolerance)
    print(json.dumps(found.as_json()) if args.json else "\n".join(lines(found, args.runs, tolerance=args.tolerance)))
    if out is not None:
        draw(out, (first, second), args.runs)
        if not args.json:
            print(f"picture: {out}")
    return DIFFERENT if args.assert_equal and not found.equal else 0
