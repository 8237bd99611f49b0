"""`meap preprocess sft`: conversations to ids and roles."""

import argparse

from meap_megatron.corpus.tokenizer import MASK_TOKEN

HELP = """Encode conversations into two aligned indexed datasets for fine-tuning.

Reads Alpaca rows (instruction, input, output), ShareGPT rows (conversations) and OpenAI rows (messages; "train": false
leaves an answer untrained); the first row of each file tells which. Writes PREFIX.bin/.idx (token ids),
PREFIX.roles.bin/.idx (one byte per token: 0 prompt, 1 answer, 2 end, 3 answer that is never masked, 64 and more the
last token of an answer that --max-length cut), PREFIX.tokenizer/ and PREFIX.meap.json. A row begins with BOS and closes
each answer with the template's end token (chatml: <|im_end|>, tokenizer: what its template puts there, else EOS).
Special tokens in the texts are plain text, those in the template are ids. An interrupted run goes
on with --resume and gives the same bytes.

  meap preprocess sft alpaca_data.json --tokenizer llama3/ --output sft/alpaca --max-length 4096
  meap preprocess sft chats.jsonl.zst --tokenizer qwen/ --output sft/chats --template tokenizer
  meap preprocess sft alpaca_data.json -t llama3/ -o sft/official --multi-turn split --max-length 4096
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="file, folder or glob of .json (an array, or lines), .jsonl, .parquet; also .gz and .zst of the first two",
    )
    parser.add_argument("--output", "-o", required=True, metavar="PREFIX", help="prefix of the dataset")
    parser.add_argument(
        "--tokenizer",
        "-t",
        required=True,
        metavar="T",
        help="Hugging Face tokenizer folder, tokenizer.json, or SentencePiece .model",
    )
    parser.add_argument(
        "--template",
        default="llama3",
        help="llama3, vicuna, chatml, mistral, alpaca, or tokenizer (its own chat template) (default: llama3)",
    )
    parser.add_argument("--format", help="alpaca, sharegpt or messages (default: by the first row of each file)")
    parser.add_argument(
        "--alpaca-prompt",
        help="question of an Alpaca row: plain (instruction, and 'Input:' with the input) or stanford "
        "(default: stanford with --template alpaca, else plain)",
    )
    parser.add_argument("--system", help="system prompt of rows without one, '' for none (default: the template's)")
    parser.add_argument(
        "--multi-turn",
        default="history",
        help="history (a conversation is one row, every answer is trained) or split (a turn is one row, without what "
        "came before, as the official code) (default: history)",
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="most tokens of a row (default: no limit)")
    parser.add_argument("--over-long", default="truncate", help="truncate or drop longer rows (default: truncate)")
    parser.add_argument(
        "--min-answer-words", type=int, metavar="N", help="never mask answers of at most N words (default: no rule)"
    )
    parser.add_argument("--no-bos", action="store_true", help="do not open rows with BOS")
    parser.add_argument("--bos-token", help="the BOS token, if the tokenizer does not say which it is")
    parser.add_argument("--eos-token", help="the EOS token, if the tokenizer does not say which it is")
    parser.add_argument(
        "--mask-token",
        default=MASK_TOKEN,
        help=f"the mask token; added with the next free id if absent (default: {MASK_TOKEN})",
    )
    parser.add_argument("--workers", type=int, help="processes (default: the available CPUs)")
    parser.add_argument(
        "--shard", metavar="I/N", help="do only part I of N, 0 <= I < N, under PREFIX.shard-I-of-N; then meap merge"
    )
    parser.add_argument(
        "--shard-size",
        metavar="BYTES",
        help="input per unit of work and of resume, such as 64M (default: as for text)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset or unfinished run")
    parser.add_argument(
        "--max-bad-lines", type=int, default=0, metavar="N", help="skip and report up to N bad rows (default: 0)"
    )
    parser.add_argument("--encoder", default="auto", help="auto, gigatoken, or tokenizers (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Make the dataset and print what it holds."""
    from meap_megatron.cli.preprocess_text import parse_shard, parse_size
    from meap_megatron.corpus.sft.preprocess import preprocess_sft
    from meap_megatron.corpus.sft.settings import SftConfig

    config = SftConfig(
        inputs=args.inputs,
        output=args.output,
        tokenizer=args.tokenizer,
        template=args.template,
        format=args.format,
        alpaca_prompt=args.alpaca_prompt,
        system=args.system,
        multi_turn=args.multi_turn,
        max_length=args.max_length,
        over_long=args.over_long,
        min_answer_words=args.min_answer_words,
        add_bos=not args.no_bos,
        bos_token=args.bos_token,
        eos_token=args.eos_token,
        mask_token=args.mask_token,
        workers=args.workers,
        shard=None if args.shard is None else parse_shard(args.shard),
        shard_bytes=None if args.shard_size is None else parse_size(args.shard_size),
        resume=args.resume,
        overwrite=args.overwrite,
        max_bad_lines=args.max_bad_lines,
        encoder=args.encoder,
    )
    sidecar = preprocess_sft(config)
    assert sidecar.sft is not None
    counts = sidecar.sft["counts"]
    print(
        f"{config.prefix}: {counts['read']:,} rows read, {sidecar.num_documents:,} kept ({counts['truncated']:,} "
        f"truncated), {counts['dropped_long'] + counts['dropped_untrained']:,} dropped, {counts['bad']:,} bad; "
        f"{sidecar.num_tokens:,} tokens ({sidecar.dtype}), {sidecar.sft['trained_share']:.1%} of them trained; "
        f"mask token {sidecar.tokenizer.mask_token} = {sidecar.tokenizer.mask_id}"
    )
    return 0
