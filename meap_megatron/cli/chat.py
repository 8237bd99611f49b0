"""`meap chat`: a conversation in the terminal with a checkpoint or a Hugging Face folder."""

import argparse
from pathlib import Path

from meap_megatron.cli.generate import add_generation, sampling_of, source_of

HELP = """Chat with a model: a run's folder, one checkpoint, or a Hugging Face folder.

  meap chat runs/sft
  meap chat hf/mine --temperature 0.7 --top-p 0.9

The chat template is that of the training data, or of the tokenizer. /clear forgets the conversation; /quit or Ctrl+D ends;
Ctrl+C ends an answer. A text of several lines begins and ends with three quotation marks. [MASK] is never generated."""

QUOTES = '"""'
COMMANDS = "/clear forgets the conversation, /quit or Ctrl+D ends, Ctrl+C ends an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="run, import, iter_* folder or Hugging Face folder")
    parser.add_argument(
        "--apply-chat-template",
        action="store_true",
        help="chat with a base model through its tokenizer's chat template",
    )
    add_generation(parser, max_tokens=1024)


def run(args: argparse.Namespace) -> int:
    """Load the model and take turns until the user has enough."""
    import contextlib
    import dataclasses
    import sys

    from meap_megatron.errors import UserError
    from meap_megatron.launch.runtime import set_thread_policy
    from meap_megatron.terminal import print_error

    set_thread_policy()
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() then edits lines and remembers them)
    sampling = sampling_of(args)

    from meap_megatron.generation.conversation import ChatSession
    from meap_megatron.generation.model import open_model

    opened = open_model(source_of(args, chat=True if args.apply_chat_template else None))
    if not opened.chat.apply:
        raise UserError(
            f"{args.model} was not trained on conversations ({opened.chat.source})",
            fix="continue a text with `meap generate`"
            + (", or chat all the same with --apply-chat-template" if opened.tokenizer.chat_template else ""),
        )
    conversation = ChatSession(opened, sampling, system=args.system, thinking=args.thinking)
    print(COMMANDS, file=sys.stderr)
    while (text := _turn()) is not None:
        if text == "/clear":
            conversation.clear()
            continue
        if text.startswith("/") and text[1:].isalpha():
            print(COMMANDS, file=sys.stderr)
            continue
        try:
            found = conversation.ask(text, lambda new: print(new, end="", flush=True))
        except UserError as error:
            fix = f"{error.fix}, or start" if error.fix else "start"
            print_error(UserError(error.problem, fix=f"{fix} a new conversation with /clear"))
            continue
        print(flush=True)
        if found is None:
            print("(interrupted)", file=sys.stderr)
        elif not found.ended:
            print(f"(stopped after {len(found.ids):,} tokens; --max-tokens)", file=sys.stderr)
        # Another question must not be answered with the same draws.
        conversation.sampling = dataclasses.replace(conversation.sampling, seed=conversation.sampling.seed + 1)
    return 0


def _turn() -> str | None:
    """Return what the user says next, or None where the user ends."""
    import sys

    sign = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            text = input(sign).strip()
            if text.startswith(QUOTES):
                while not (text.endswith(QUOTES) and len(text) >= 2 * len(QUOTES)):
                    text += "\n" + input(sign and "  ")
                text = text[len(QUOTES) : -len(QUOTES)].strip()
        except EOFError:
            print(file=sys.stderr)
            return None
        except KeyboardInterrupt:
            print("\n/quit or Ctrl+D ends", file=sys.stderr)
            continue
        if text in ("/quit", "/exit"):
            return None
        if text:
            return text
