"""`meap preprocess sft`: conversations to ids and roles."""

import argparse
import datetime

from meap_megatron.cli import preprocess_options
from meap_megatron.errors import UserError, counted

HELP = """Encode conversations into two aligned indexed datasets for fine-tuning.

Reads Alpaca records (instruction, input, output), pairs (prompt and completion, question and answer), ShareGPT records
(conversations) and OpenAI records (messages, tools; "weight": 0 or "train": false leaves an answer untrained), told by the
keys of each record; --columns names other keys. What each key does: docs/finetuning.md. Writes PREFIX.bin/.idx (token ids),
PREFIX.roles.bin/.idx (one byte per token: 0 prompt, 1 answer, 2 end, 3 answer that is never masked, 64 and more the
last token of an answer that --max-length cut), PREFIX.tokenizer/ and PREFIX.meap.json. A row begins with
BOS where the tokenizer puts one before a text, and closes each answer with the template's end token (chatml:
<|im_end|>, tokenizer: what its template puts there, else EOS).
Special tokens in the texts are plain text, those in the template are ids. An interrupted run
continues with --resume and gives the same bytes.

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
        help="file, folder or glob of .jsonl, .ndjson, .json (lines, an array, or objects over several lines), .parquet; "
        "all but the last also as .gz, .bz2, .xz, .zst; or hf:NAME, a data set of the Hub",
    )
    preprocess_options.add_output(parser)
    parser.add_argument(
        "--template",
        help="llama3, vicuna, chatml, mistral, alpaca, or tokenizer (its own chat template) (default: tokenizer where it "
        "has a chat template, else llama3 or chatml where it has their tokens, else alpaca)",
    )
    parser.add_argument(
        "--answer-end",
        default="template",
        help="template (llama3: <|eot_id|> with an instruct tokenizer, else EOS) or eos, as the official code "
        "(default: template)",
    )
    parser.add_argument(
        "--date",
        type=_date,
        metavar="YYYY-MM-DD",
        help="the date that a chat template writes which asks for it (default: today, or that of the run to resume)",
    )
    parser.add_argument("--format", help="alpaca, pairs, sharegpt or messages (default: by the keys of each record)")
    parser.add_argument(
        "--columns",
        metavar="WHAT=KEY,...",
        help="keys of records of no known format: question=KEY,answer=KEY and input, system, history, tools; or "
        "messages=KEY and system, tools",
    )
    parser.add_argument(
        "--ignore-keys",
        metavar="KEY,...",
        help="keys that are known not to be used: nothing is said of them, and --strict accepts them",
    )
    parser.add_argument(
        "--alpaca-prompt",
        help="question of an Alpaca record: plain (instruction, and 'Input:' with the input) or stanford "
        "(default: stanford with --template alpaca, else plain)",
    )
    parser.add_argument("--system", help="system prompt of records without one, '' for none (default: the template's)")
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
    preprocess_options.add_special_tokens(parser)
    preprocess_options.add_running(parser)


def run(args: argparse.Namespace) -> int:
    """Make the dataset and print what it holds."""
    from meap_megatron.corpus.sft.preprocess import preprocess_sft
    from meap_megatron.corpus.sft.settings import SftConfig

    given = preprocess_options.fields_given(SftConfig, args)
    given["columns"] = parse_columns(args.columns or "")
    given["ignore_keys"] = tuple(filter(None, (args.ignore_keys or "").split(",")))
    sidecar = preprocess_sft(config := SftConfig(**given))
    assert sidecar.sft is not None
    print(
        f"{config.prefix}: {counted(sidecar.num_documents, 'record')}, {counted(sidecar.num_tokens, 'token')} "
        f"({sidecar.dtype}), {sidecar.sft['trained_share']:.1%} of them trained; "
        f"mask token {sidecar.tokenizer.mask_token} = {sidecar.tokenizer.mask_id}"
    )
    return 0


def parse_columns(text: str) -> dict[str, str]:
    """Read `question=KEY,answer=KEY`.

    Raises:
        UserError: not of this form, or one is named twice.
    """
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        what, equals, key = part.partition("=")
        if not equals or not key or what in columns:
            raise UserError(f"--columns is {text!r}, expected WHAT=KEY,WHAT=KEY such as question=prompt,answer=reply")
        columns[what] = key
    return columns


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day (YYYY-MM-DD): {error}") from None
