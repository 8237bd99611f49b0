"""`meap merge`: join indexed datasets by copying."""

import argparse

HELP = """Join datasets by copying their bytes and rebuilding the index.

The inputs must have the same tokenizer, type and BOS/EOS policy. The shards of a SLURM array may be given in any
order: they are joined by number, and none may be missing; the result then has the bytes of an unsharded run.

  meap merge corpus/c4 corpus/c4.shard-*.idx
  meap merge corpus/all corpus/wiki corpus/books
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("output", metavar="OUT", help="prefix of the result")
    parser.add_argument("inputs", nargs="+", metavar="IN", help="prefixes, or any of their files")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing result")


def run(args: argparse.Namespace) -> int:
    """Merge and print what the result holds."""
    from meap_megatron.corpus.merge import merge
    from meap_megatron.errors import counted

    sidecar = merge(args.output, args.inputs, overwrite=args.overwrite)
    documents, tokens = counted(sidecar.num_documents, "document"), counted(sidecar.num_tokens, "token")
    print(f"{args.output}: {documents}, {tokens} ({sidecar.dtype})")
    return 0
