"""Run `meap evaluate` from a checkout: `python tools/evaluate_model.py SUITE --model DIR`."""

import sys

from meap_megatron.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
