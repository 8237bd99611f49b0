"""Run `meap preprocess text` from a checkout: `python tools/preprocess_data.py INPUT ... --tokenizer T --output P`."""

import sys

from meap_megatron.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["preprocess", "text", *sys.argv[1:]]))
