"""Run `meap preprocess sft` from a checkout: `python tools/preprocess_sft.py INPUT ... --tokenizer T --output P`."""

import sys

from meap_megatron.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["preprocess", "sft", *sys.argv[1:]]))
