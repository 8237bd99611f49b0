"""`meap tokenizer train`: a byte-level BPE tokenizer of one's own texts."""

import argparse
from pathlib import Path

HELP = """Train a byte-level BPE tokenizer with the library tokenizers; BOS, EOS and [MASK] are in it, no byte is unknown.

  meap tokenizer train my_texts/ --vocab-size 8192 --output my_tokenizer
  meap preprocess text my_texts/ --tokenizer my_tokenizer --output data/mine

Loads with transformers. For a real run take the tokenizer of a published model; this is for text of another kind."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="file, folder or glob, as of `meap preprocess text`"
    )
    parser.add_argument("--output", "-o", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--vocab-size", type=int, default=8192, metavar="N", help="at most N pieces (default: 8192)")
    parser.add_argument("--json-key", default="text", help="key or parquet column of the text (default: text)")
    parser.add_argument("--max-size", default="1G", metavar="BYTES", help="text to learn from at most (default: 1G)")
    parser.add_argument("--overwrite", action="store_true", help="replace a tokenizer in DIR")


def run(args: argparse.Namespace) -> int:
    """Train and save."""
    from meap_megatron.cli.preprocess_options import parse_size
    from meap_megatron.corpus.inputs import find_inputs
    from meap_megatron.corpus.readers import texts_of
    from meap_megatron.errors import UserError
    from meap_megatron.tokenizer.train import SMALLEST, train_tokenizer

    if args.vocab_size < SMALLEST:
        raise UserError(
            f"--vocab-size {args.vocab_size} must be at least {SMALLEST}: all bytes and the special tokens"
        )
    if (args.output / "tokenizer.json").exists() and not args.overwrite:
        raise UserError(f"{args.output} contains a tokenizer", fix="choose another --output, or say --overwrite")
    texts = texts_of(find_inputs(args.inputs).files, key=args.json_key, most=parse_size(args.max_size))
    pieces = train_tokenizer(texts, args.output, vocab_size=args.vocab_size)
    print(f"{args.output}: {pieces:,} pieces")
    return 0
