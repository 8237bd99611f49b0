"""`meap verify`: check indexed datasets byte by byte."""

import argparse

HELP = """Read every byte of a dataset and compare it with its sidecar.

Checks sizes, header, pointers, document index, ids against the vocabulary, the mask id, empty documents, BOS and EOS,
the content hash and the tokenizer. One line per check; exit status 2 when a check fails.

  meap verify corpus/c4
  meap verify megatron/my_text_document --write-sidecar --tokenizer my_tokenizer/    data of another tool
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prefixes", nargs="+", metavar="PREFIX", help="dataset, without .bin or .idx")
    parser.add_argument("--write-sidecar", action="store_true", help="make the sidecar of data from another tool")
    parser.add_argument("--tokenizer", "-t", metavar="T", help="with --write-sidecar: the tokenizer of the ids")
    parser.add_argument("--mask-token", help="with --write-sidecar: the mask token (default: [MASK])")
    parser.add_argument("--bos-token", help="with --write-sidecar: the BOS token")
    parser.add_argument("--eos-token", help="with --write-sidecar: the EOS token")
    parser.add_argument("--overwrite", action="store_true", help="with --write-sidecar: replace an existing sidecar")


def run(args: argparse.Namespace) -> int:
    """Print the checks of each prefix."""
    from meap_megatron.corpus.merge import as_prefix
    from meap_megatron.corpus.verify import Checks, adopt, verify
    from meap_megatron.errors import UserError, counted

    if args.write_sidecar and not args.tokenizer:
        raise UserError("--write-sidecar needs the tokenizer that made the ids", fix="give it with --tokenizer T")
    failed: list[str] = []
    for prefix in dict.fromkeys(map(as_prefix, args.prefixes)):
        if args.write_sidecar:
            checks = Checks()
            adopt(
                prefix,
                tokenizer=args.tokenizer,
                overwrite=args.overwrite,
                check=checks,
                mask_token=args.mask_token,
                bos_token=args.bos_token,
                eos_token=args.eos_token,
            )
        else:
            checks = verify(prefix)
        print(prefix)
        for check in checks:
            print(f"  {'ok    ' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
        failed += [f"{check.name} of {prefix}" for check in checks if not check.passed]
    if failed:
        text = f"{counted(len(failed), 'check')} failed: {', '.join(failed)}"
        raise UserError(text, fix="make the dataset again or copy it again")
    return 0
