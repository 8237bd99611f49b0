"""The console script `meap`: finds the verb's module, parses, runs, and turns errors into messages and exit status.

A verb is a module of this package with `HELP: str`, `add_arguments(parser)` and `run(args) -> int`. Only the module
of the verb that was typed is imported, and modules import torch, Megatron or transformers inside `run` only, so that
`meap --help` stays under 0.3 s.
"""

import argparse
import difflib
import importlib
import io
import os
import sys
from types import ModuleType
from typing import NoReturn

from meap_megatron import terminal
from meap_megatron.errors import RunError, UserError
from meap_megatron.version import __version__

# Task -> verb (one or two words) -> what it does. The verb's module has its name, with _ for the space.
TASKS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "train NTP and MEAP side by side on this machine and draw one page (offline, about 3 minutes)",
        "init": "look at a folder (model, texts, conversations, GPUs, SLURM); write a recipe and a script for it",
        "doctor": "what is installed, what is missing, what that costs, and the command that fixes it",
    },
    "Prepare data": {
        "tokenizer train": "train a byte-level BPE tokenizer with [MASK] on your texts",
        "preprocess text": "raw text (.txt, .jsonl, .gz, .zst, .parquet) to a Megatron indexed dataset",
        "preprocess sft": "conversations (Alpaca, ShareGPT, messages) to ids and roles for fine-tuning",
        "verify": "check an indexed dataset byte by byte against its sidecar",
        "merge": "join indexed datasets by copying",
        "show": "print one training sample as columns: token, label, masked?, loss?",
    },
    "Train": {
        "train": "run a recipe through Megatron's own trainer",
        "status": "progress of a run, also by SLURM job: step, loss, speed, time left; the exit status is an alert",
        "compare": "the first step at which two runs differ, and their losses at equal tokens",
        "checkpoint list": "what a run has saved, what is complete, and from which one it continues",
        "checkpoint verify": "check saved checkpoints file by file against their checksums",
    },
    "Plan a job": {
        "plan": "layouts of a recipe on N GPUs: memory, time, cost by arithmetic; writes the best and its batch script",
        "rehearse": "build a job of any number of GPUs rank by rank on a CPU, and report what would stop it",
        "cache": "build the sample index of a recipe before the job, on any machine",
        "sweep": "run one recipe with several settings: the paper's ablations",
        "sweep table": "the results of a sweep in the layout of the paper's tables",
    },
    "Use and evaluate a model": {
        "generate": "continue a text or answer prompts with a run, a checkpoint or a Hugging Face folder",
        "chat": "chat with a run, a checkpoint or a Hugging Face folder in the terminal",
        "evaluate": "the paper's evaluation on a Hugging Face model folder: needle, multi-document QA, M-RS, commonsense",
        "report": "results and training curves of several runs on one page, beside the paper's numbers",
    },
    "Convert": {
        "convert import": "Hugging Face weights to a checkpoint that Megatron trains at any layout",
        "convert export": "a checkpoint to a Hugging Face folder with tokenizer",
        "convert verify": "compare the logits of a Hugging Face folder and a checkpoint",
    },
    "This program": {"completion": "print the completion script of a shell: bash, zsh or tcsh"},
}
VERBS = {verb: summary for verbs in TASKS.values() for verb, summary in verbs.items()}
LONG = (
    *("demo", "tokenizer train", "preprocess text", "preprocess sft", "verify", "merge", "train", "checkpoint verify"),
    *("rehearse", "cache", "sweep", "evaluate", "convert import", "convert export", "convert verify"),
)
"""Verbs that may run long: all take --quiet and --verbose."""


def overview() -> str:
    """Return the text of `meap --help`."""
    width = max(map(len, VERBS))
    lines = []
    for task, verbs in TASKS.items():
        lines += ["", f"{task}:", *(f"  {verb:<{width}}  {summary}" for verb, summary in verbs.items())]
    return "\n".join(
        [
            "usage: meap VERB [options]      (meap VERB --help explains one verb)",
            "",
            "MEAP: mask-enhanced autoregressive prediction, trained by Megatron-Core.",
            *lines,
            "",
            "  --version  print the version",
            "  --debug    show the traceback of an error (with every verb)",
        ]
    )


def find_verb(arguments: list[str]) -> tuple[str, list[str]]:
    """Split the command line into the verb and the verb's own arguments.

    Raises:
        UserError: no verb has this name; the message names the nearest one.
    """
    for count in (2, 1):
        if (verb := " ".join(arguments[:count])) in VERBS:
            return verb, arguments[count:]
    typed = " ".join(arguments[:2]) if any(v.startswith(arguments[0] + " ") for v in VERBS) else arguments[0]
    near = difflib.get_close_matches(typed, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean 'meap {near[0]}'?" if near else "`meap --help` lists the verbs"
    raise UserError(f"there is no verb '{typed}'", fix=hint)


class VerbParser(argparse.ArgumentParser):
    """A parser whose errors are printed like all others, with the nearest option in place of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UserError: always.
        """
        unknown = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
        options, hint = self._option_string_actions, ""
        if unknown.startswith("--") and unknown not in options:
            near = difflib.get_close_matches(unknown, options, n=1, cutoff=0.7)
            takes_settings = any(action.metavar == "key=value" for action in self._actions)
            if near:
                hint = f"did you mean {near[0]}? "
            elif takes_settings:
                hint = f"a setting is written {unknown[2:].replace('-', '_')}=VALUE; "
        raise UserError(f"{self.prog}: {message}", fix=f"{hint}`{self.prog} --help` lists what it takes")


def parser_of(verb: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """Import a verb's module and return it with its parser."""
    module = importlib.import_module(f"meap_megatron.cli.{verb.replace(' ', '_')}")
    parser = VerbParser(
        prog=f"meap {verb}", description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    if verb in LONG:
        terminal.add_switches(parser)
    return module, parser


def information(arguments: list[str]) -> str | None:
    """Return what is said without running a verb: the overview, a family of verbs, the version; None: nothing of these."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return overview()
    if arguments[0] == "--version":
        return f"meap_megatron {__version__}"
    family = [verb for verb in VERBS if verb.startswith(arguments[0] + " ")]
    if family and arguments[0] not in VERBS and arguments[1:] in (["-h"], ["--help"], []):
        return "\n".join(f"meap {verb}  {VERBS[verb]}" for verb in family)
    return None


def speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale knows ASCII only, in which neither paths nor output have accents.

    What still cannot be printed, such as a path that is not UTF-8, is escaped.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        environ = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "meap_megatron.cli.main", *sys.argv[1:]], environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 done, 1 the run failed, 2 the input was refused."""
    if argv is None:
        speak_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("MEAP_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    before = os.environ.get("MEAP_DEBUG")
    os.environ["MEAP_DEBUG"] = "1" if debug else "0"  # for the ranks that a verb starts
    try:
        if (text := information(arguments)) is not None:
            print(text, flush=True)  # here, where a reader that went away is known
            asked = not arguments or arguments[-1].startswith("-")
            return 0 if asked else 2
        verb, rest = find_verb(arguments)
        module, parser = parser_of(verb)
        args = parser.parse_intermixed_args(rest)
        with terminal.as_asked(args):
            return int(module.run(args) or 0)
    except (UserError, RunError) as error:
        if debug:
            raise
        # Under srun every task would say that the same input is refused.
        if isinstance(error, RunError) or os.environ.get("SLURM_PROCID", "0") == "0":
            terminal.print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        if debug:
            raise
        print("meap: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) went away: nothing is wrong with the run.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if debug:
            raise
        terminal.print_error(
            UserError(
                f"the Python package {error.name} is not installed for {sys.executable}",
                fix="`meap doctor` lists what is missing, with the commands that install it",
            )
        )
        return 2
    except Exception as error:
        if debug:
            raise
        print(f"meap: error: {type(error).__name__}: {error}\n(--debug shows where)", file=sys.stderr)
        return 1
    finally:
        if before is None:
            os.environ.pop("MEAP_DEBUG", None)
        else:
            os.environ["MEAP_DEBUG"] = before


if __name__ == "__main__":
    sys.exit(main())
