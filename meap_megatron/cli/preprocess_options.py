"""Options that `meap preprocess text` and `meap preprocess sft` share, and how their values are read."""

import argparse
import re
from dataclasses import fields
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import MASK_TOKEN

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare where the dataset goes and which tokenizer encodes it."""
    parser.add_argument("--output", "-o", required=True, metavar="PREFIX", help="prefix of the dataset")
    parser.add_argument(
        "--tokenizer",
        "-t",
        required=True,
        metavar="T",
        help="Hugging Face tokenizer folder, tokenizer.json, or SentencePiece .model",
    )


def add_special_tokens(parser: argparse.ArgumentParser) -> None:
    """Declare the special tokens."""
    bos = parser.add_mutually_exclusive_group()
    bos.add_argument(
        "--add-bos",
        dest="add_bos",
        action="store_true",
        default=None,
        help="open every document with BOS (default: as the tokenizer does with a text)",
    )
    bos.add_argument("--no-bos", dest="add_bos", action="store_false", help="open no document with BOS")
    parser.add_argument(
        "--bos-token", help="the BOS token, if the tokenizer does not say which it is; documents get it"
    )
    parser.add_argument("--eos-token", help="the EOS token, if the tokenizer does not say which it is")
    parser.add_argument(
        "--mask-token",
        default=MASK_TOKEN,
        help=f"the mask token; added with the next free id if absent (default: {MASK_TOKEN})",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Declare how the work is divided, resumed and checked."""
    parser.add_argument("--workers", type=int, help="processes (default: the available CPUs)")
    parser.add_argument(
        "--shard", metavar="I/N", help="do only part I of N, 0 <= I < N, under PREFIX.shard-I-of-N; then meap merge"
    )
    parser.add_argument(
        "--shard-size",
        metavar="BYTES",
        help="input per unit of work and of resume, such as 64M (default: 1/64 of the input, 8M to 256M)",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run of the same command")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset or unfinished run")
    parser.add_argument(
        "--max-bad-lines",
        type=int,
        default=0,
        metavar="N",
        help="skip and report up to N invalid lines (default: 0)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse what is otherwise skipped and named at the end: files that are not read, records that are dropped, "
        "keys of records that are not used",
    )
    parser.add_argument(
        "--encoder",
        default="auto",
        help="auto (gigatoken if it agrees with tokenizers on a sample of the input), gigatoken, or tokenizers",
    )


def fields_given(config: type, args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a configuration that have an option of their name, and the shard.

    Raises:
        UserError: --shard or --shard-size is not of its form.
    """
    found = {one.name: getattr(args, one.name) for one in fields(config) if hasattr(args, one.name)}
    return found | {
        "shard": None if args.shard is None else parse_shard(args.shard),
        "shard_bytes": None if args.shard_size is None else parse_size(args.shard_size),
    }


def parse_shard(text: str) -> tuple[int, int]:
    """Read `i/n`.

    Raises:
        UserError: not of this form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UserError(f"--shard is {text!r}, expected I/N such as 0/8")
    return int(match[1]), int(match[2])


def parse_size(text: str) -> int:
    """Read a number of bytes with an optional K, M or G.

    Raises:
        UserError: not of this form.
    """
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if not match:
        raise UserError(f"--shard-size is {text!r}, expected bytes such as 1000000 or 64M")
    return int(match[1]) * UNITS[match[2]]
