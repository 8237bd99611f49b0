"""`meap demo`: from raw text to two trained models and one page, offline."""

import argparse

HELP = """Train a small NTP and a small MEAP model side by side on this machine and draw one page.

Offline and on the CPU: the text is Python's standard library, the tokenizer is trained on it, the models are trained by
Megatron's own trainer. Ends with OUT/index.html. OUT also holds the corpus, tokenizer, indexed data, recipes and
checkpoints, to continue with.

  meap demo
  meap demo --out runs/demo --steps 2000
  meap demo --quick                  every stage, very small, under a minute
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", default="demo", metavar="FOLDER", help="where everything goes (default: demo)")
    parser.add_argument("--steps", type=int, default=None, metavar="N", help="training steps of each arm")
    parser.add_argument("--overwrite", action="store_true", help="replace the demo that FOLDER holds")
    parser.add_argument(
        "--quick", action="store_true", help="very small: shows that every stage works, learns nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from pathlib import Path

    from meap_megatron.demo.sizes import FULL, QUICK
    from meap_megatron.demo.stages import demo

    plan = (QUICK if args.quick else FULL).with_steps(args.steps)
    demo(Path(args.out), plan=plan, overwrite=args.overwrite)
    return 0
