"""`meap preprocess text`: raw text to a Megatron indexed dataset."""

import argparse
from typing import Any

from meap_megatron.cli import preprocess_options
from meap_megatron.errors import UserError, counted

HELP = """Encode raw text into an indexed dataset that Megatron reads.

Writes PREFIX.bin and PREFIX.idx (Megatron's format), PREFIX.tokenizer/ (the tokenizer with [MASK] in it, loadable by
transformers) and PREFIX.meap.json (what was made of what). Every document becomes text + EOS, with BOS before it
where the tokenizer puts one before a text (--add-bos: always, as the official code). Special tokens in the text are
encoded as plain text. Nothing appears under these names before it is complete; an interrupted run continues with
--resume and gives the same bytes.

  meap preprocess text data/*.jsonl.zst --tokenizer tokenizer.model --output corpus/c4
  meap preprocess text notes/ --tokenizer my_tokenizer/ --output corpus/notes --no-bos
  meap preprocess text 'c4/**/*.json.gz' ... --shard $SLURM_ARRAY_TASK_ID/64     then: meap merge corpus/c4 PARTS
  meap preprocess text slimpajama/train ... --length-upsample 4B                 for longer contexts: docs/extension.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="file, folder or glob of .txt (one document per file), .jsonl, .ndjson, .json (lines, an array, or objects "
        "over several lines), .parquet; all but the last also as .gz, .bz2, .xz, .zst; or hf:NAME, a data set of the Hub",
    )
    preprocess_options.add_output(parser)
    parser.add_argument("--json-key", default="text", help="key or parquet column of the text (default: text)")
    parser.add_argument("--no-eos", action="store_true", help="do not end documents with EOS")
    preprocess_options.add_special_tokens(parser)
    preprocess_options.add_running(parser)
    add_upsampling(parser)


def add_upsampling(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `--length-upsample`."""
    group = parser.add_argument_group(
        "length upsampling (Fu et al. 2024)",
        "long documents get a larger share of the tokens, every source keeps its own; documents are taken in the order of "
        "the input until the budget of their source is met",
    )
    group.add_argument("--length-upsample", metavar="TOKENS", help="tokens to take in all, such as 4B or 500M")
    group.add_argument(
        "--upsample-mixture",
        metavar="MIX",
        help="slimpajama (default), slimpajama-text, or NAME=WEIGHT,NAME=WEIGHT; documents of other sources are left out",
    )
    group.add_argument(
        "--upsample-source",
        metavar="WHERE",
        help="what names a document's source: a JSON key, dots lead into objects (default: meta.redpajama_set_name), or "
        "folder or file, the name of the input file's folder or its own up to the first dot",
    )
    group.add_argument(
        "--upsample-keep", type=float, metavar="P", help="probability that a short document is kept (default: 0.1)"
    )
    group.add_argument(
        "--upsample-long-from", type=int, metavar="N", help="tokens from which a document is long (default: 4096)"
    )
    group.add_argument(
        "--upsample-measure",
        choices=("tokens", "estimate"),
        help="lengths and budgets by what is written (default), or by characters / 3.68 as the script of Fu et al.",
    )
    group.add_argument("--upsample-seed", type=int, metavar="N", help="which short documents are kept (default: 42)")


def run(args: argparse.Namespace) -> int:
    """Make the dataset and print what it holds."""
    from meap_megatron.corpus.preprocess import preprocess
    from meap_megatron.corpus.settings import PreprocessConfig

    sidecar = preprocess(
        config := PreprocessConfig(
            **preprocess_options.fields_given(PreprocessConfig, args),
            add_eos=not args.no_eos,
            upsample=upsampling(args),
        )
    )
    documents, tokens = counted(sidecar.num_documents, "document"), counted(sidecar.num_tokens, "token")
    print(
        f"{config.prefix}: {documents}, {tokens} ({sidecar.dtype}), "
        f"vocabulary {sidecar.tokenizer.vocab_size:,}, mask token {sidecar.tokenizer.mask_token} = "
        f"{sidecar.tokenizer.mask_id}"
    )
    if sidecar.upsample is not None:
        from meap_megatron.corpus.upsample.selection import report_lines

        print("\n".join(report_lines(sidecar.upsample)))
    return 0


def upsampling(args: argparse.Namespace) -> Any:
    """Return the `Upsample` that was asked for, or None.

    Raises:
        UserError: its options without `--length-upsample`, or a value that makes no sense.
    """
    from meap_megatron.corpus.upsample.selection import Upsample, parse_mixture, parse_tokens

    names = ("source", "keep", "long_from", "measure", "seed")
    given = {name: value for name in names if (value := getattr(args, f"upsample_{name}")) is not None}
    if args.length_upsample is None:
        if given or args.upsample_mixture is not None:
            option = next(iter(given), "mixture").replace("_", "-")
            raise UserError(
                f"--upsample-{option} needs --length-upsample",
                fix="give --length-upsample TOKENS, the tokens to take in all",
            )
        return None
    mixture = parse_mixture(args.upsample_mixture or "slimpajama")
    return Upsample(total_tokens=parse_tokens(args.length_upsample), mixture=mixture, **given)
