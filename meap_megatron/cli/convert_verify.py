"""`meap convert verify`: compare a Hugging Face folder with a checkpoint of Megatron."""

import argparse
from pathlib import Path

from meap_megatron.cli.convert_import import MEGATRON_LOGITS, layer_count

HELP = """Compare a Hugging Face folder with a checkpoint of Megatron: config fields, then logits on fixed ids.

  meap convert verify Llama-3-8B checkpoints/llama3_8b

Prints the largest difference of two logits and how often both rank the same token first; says which layer differs first if
they are not the same model (exit status 1)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("hf", metavar="HF_DIR", type=Path, help="Hugging Face folder, or a .gguf file")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="save folder, import, or iter_* folder")
    parser.add_argument("--verify-layers", type=layer_count, metavar="N", help="run the first N layers only")
    parser.add_argument("--allow-config-field", action="append", default=[], metavar="NAME", help="see convert import")
    parser.add_argument("--ignore-adapter", action="store_true", help="see convert import")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    import json

    from meap_megatron.checkpoint.convert.gguf_files import hf_source
    from meap_megatron.checkpoint.convert.verifying import verify

    allowed = tuple(args.allow_config_field)
    with hf_source(args.hf, beside=args.checkpoint, allowed=allowed) as source:
        result = verify(
            source,
            args.checkpoint,
            megatron=MEGATRON_LOGITS,
            layers=args.verify_layers,
            allowed=allowed,
            ignore_adapter=args.ignore_adapter,
        )
    print(json.dumps(result.record()) if args.json else result.line())
    return 0
