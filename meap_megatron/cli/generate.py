"""`meap generate`: continue a text, or answer prompts, with a checkpoint or a Hugging Face folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap_megatron.declared import add_flags, from_args
from meap_megatron.generation.generation_settings import Sampling, Source

if TYPE_CHECKING:
    from meap_megatron.generation.model import OpenModel
    from meap_megatron.generation.prompts import Prompt

HELP = """Continue a text, or answer a question, with a model: a run's folder, one checkpoint, or a Hugging Face folder.

  meap generate runs/mine "def main():"
  meap generate hf/mine --temperature 0.7 --top-p 0.9 --seed 3 < prompt.txt
  meap generate runs/sft --prompts questions.jsonl --batch-size 8 > answers.jsonl

A model that was trained on conversations is asked through the chat template of its data; any other one continues the text.
The text comes as it is generated. With --prompts (a text a line, or JSON objects with 'prompt' or 'messages'; - is standard
input) one JSON object a line comes out: the line's own keys, answer, tokens, and finish (stop or length). [MASK] is never
generated. The default is greedy: the most probable token, always the same text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="run, import, iter_* folder or Hugging Face folder")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="text (default: all of standard input)")
    parser.add_argument("--prompts", metavar="FILE", help="a prompt a line, or JSONL; - is standard input")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="prompts at a time (default: 1)")
    parser.add_argument(
        "--apply-chat-template",
        action=argparse.BooleanOptionalAction,
        help="ask through the tokenizer's chat template (default: models trained on conversations)",
    )
    add_generation(parser, max_tokens=256)


def add_generation(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    """Declare the options that generate and chat share."""
    parser.add_argument("--system", metavar="TEXT", help="system prompt (default: the chat template's)")
    parser.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        help="the chat template's switch enable_thinking (default: the template's)",
    )
    add_flags(parser, Sampling, prefix="")
    add_flags(parser, Source, prefix="")
    parser.set_defaults(max_tokens=max_tokens)


def source_of(args: argparse.Namespace, *, chat: bool | None) -> Source:
    """Return which model the options name."""
    return Source(model=args.model, chat=chat, **from_args(Source, args, prefix=""))


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Return how the options let tokens be chosen; see `Sampling`."""
    return Sampling(**from_args(Sampling, args, prefix=""))


def run(args: argparse.Namespace) -> int:
    """Read the prompts, load the model, answer."""
    import sys

    from meap_megatron.errors import UserError
    from meap_megatron.launch.runtime import set_thread_policy

    set_thread_policy()
    sampling = sampling_of(args)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size} must be at least 1")
    if args.prompts is not None and args.prompt is not None:
        raise UserError("PROMPT and --prompts are both given", fix="give one of them")
    if args.prompts is not None:
        return _many(args, sampling)
    if args.prompt is None and sys.stdin.isatty():
        raise UserError(
            "there is no prompt", fix='give one: meap generate MODEL "some text", standard input, or --prompts FILE'
        )
    text = sys.stdin.read() if args.prompt is None else args.prompt

    from meap_megatron.generation.answer import answer
    from meap_megatron.generation.model import open_model

    opened = open_model(source_of(args, chat=args.apply_chat_template))
    ids = _ids(opened, {"prompt": text}, args)
    [found] = answer(opened, [ids], sampling, on_text=lambda new: print(new, end="", flush=True))
    print(flush=True)
    if not found.ended:
        print(f"(stopped after {len(found.ids):,} tokens)", file=sys.stderr)
    return 0


def _many(args: argparse.Namespace, sampling: Sampling) -> int:
    """Answer the prompts of a file, all of which are checked before the first answer."""
    import dataclasses
    import itertools
    import json

    from meap_megatron.errors import UserError
    from meap_megatron.generation.answer import answer, room
    from meap_megatron.generation.model import open_model

    prompts = _prompts(args.prompts)
    opened = open_model(source_of(args, chat=args.apply_chat_template))
    asked = []
    for prompt in prompts:
        try:
            ids = _ids(opened, prompt.record, args)
            room(opened, ids)
        except UserError as error:
            raise error.at(prompt.place) from None
        asked.append((prompt, ids))
    for number, group in enumerate(itertools.batched(asked, args.batch_size)):
        drawn = dataclasses.replace(sampling, seed=sampling.seed + number * args.batch_size)
        for (prompt, _), found in zip(group, answer(opened, [ids for _, ids in group], drawn), strict=True):
            finish = "stop" if found.ended else "length"
            record = {**prompt.record, "answer": found.text, "tokens": len(found.ids), "finish": finish}
            print(json.dumps(record, ensure_ascii=False), flush=True)
    return 0


def _prompts(name: str) -> "list[Prompt]":
    """Return the prompts of a file or of standard input.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    import sys

    from meap_megatron.errors import UserError
    from meap_megatron.generation.prompts import read_prompts

    if name == "-":
        found = list(read_prompts(sys.stdin, name="standard input"))
    else:
        try:
            with Path(name).open(encoding="utf-8") as stream:
                found = list(read_prompts(stream, name=name, jsonl=True if name.endswith(".jsonl") else None))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts {name} cannot be read: {error}") from None
    if not found:
        raise UserError(f"--prompts {name} holds no prompt", fix="give a file with a prompt in each line")
    return found


def _ids(opened: "OpenModel", record: dict[str, Any], args: argparse.Namespace) -> list[int]:
    """Return what the model is given for a prompt."""
    from meap_megatron.errors import UserError
    from meap_megatron.generation.answer import chat_ids, prompt_ids

    messages = record.get("messages")
    if not opened.chat.apply:
        if messages is not None or args.system is not None or args.thinking is not None:
            raise UserError(
                f"a conversation needs a chat template, and this model continues texts ({opened.chat.source})",
                fix="ask through its tokenizer's with --apply-chat-template",
            )
        return prompt_ids(opened, record["prompt"])
    messages = messages or [{"role": "user", "content": record["prompt"]}]
    if args.system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": args.system}, *messages]
    return chat_ids(opened, messages, thinking=args.thinking)
