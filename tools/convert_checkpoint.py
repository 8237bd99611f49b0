"""Run `meap convert` from a checkout: `python tools/convert_checkpoint.py import|export|verify ...`."""

import sys

from meap_megatron.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
