"""`meap completion`: the completion script of a shell, made by shtab from the parsers of all verbs."""

import argparse
from pathlib import Path
from typing import Any

HELP = """Print the completion script of a shell: verbs, options, their choices, and files where an option takes one.

  meap completion bash > ~/.local/share/bash-completion/completions/meap
  meap completion zsh > ~/.zfunc/_meap          (with ~/.zfunc in fpath, before compinit)
  meap completion tcsh > ~/.meap.tcsh           (then: source ~/.meap.tcsh)"""

PATHS = ("DIR", "FILE", "PREFIX", "PATH", "RECIPE", "SWEEP", "MODEL", "OUT", "INPUT")
"""What the metavar of an argument contains that names a file or a folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all verbs; those of two words are below the first one."""
    import shtab

    from meap_megatron.cli.main import VERBS, parser_of

    root = argparse.ArgumentParser(prog="meap")
    groups: dict[str, Any] = {"": root.add_subparsers()}
    for verb, summary in VERBS.items():
        first, _, second = verb.rpartition(" ")
        if first not in groups:
            known = groups[""].choices.get(first) or groups[""].add_parser(first, help=f"{first} ...", add_help=False)
            groups[first] = known.add_subparsers()
        _, parser = parser_of(verb)
        for action in parser._actions:
            if action.choices is None and (action.type is Path or any(word in str(action.metavar) for word in PATHS)):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        groups[first].add_parser(second, help=summary, parents=[parser], add_help=False)
    return root


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    print(shtab.complete(whole_parser(), shell=args.shell))
    return 0
