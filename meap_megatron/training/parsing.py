"""A command line through Megatron's own parser and validation, and through the checks that need its arguments."""

import contextlib
import io
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from meap_megatron.declared import picked
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.launch import sft_settings
from meap_megatron.launch.arguments import add_meap_arguments, check
from meap_megatron.launch.blend import data_prefixes
from meap_megatron.launch.data_sidecars import is_sft, read_sidecars
from meap_megatron.launch.named_settings import of_command_line
from meap_megatron.training import rope
from meap_megatron.training.dataset_settings import check_vocabulary


def parse(argv: list[str], *, validate: bool = True) -> Any:
    """Let Megatron parse and validate the command line; without `validate`, parse it only.

    Raises:
        UserError: Megatron refuses it; the message is Megatron's.
    """
    from megatron.training.arguments import parse_and_validate_args, parse_args

    output = io.StringIO()
    saved, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        with contextlib.redirect_stderr(output), refusing():
            return (parse_and_validate_args if validate else parse_args)(extra_args_provider=add_meap_arguments)
    except SystemExit as stop:
        if stop.code != 2:  # not argparse's: help, or a signal
            raise
        message = output.getvalue().strip().splitlines()
        raise UserError(f"Megatron refuses the command line: {message[-1] if message else stop}") from None
    finally:
        sys.argv = saved


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what Megatron raises while it checks settings into a `UserError` with its reason."""
    try:
        yield
    except UserError:
        raise
    except (AssertionError, ValueError, RuntimeError, KeyError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error) or f"the rule `{where.line}` does not hold"
        raise UserError(f"Megatron refuses the settings: {reason}") from error


def settle(argv: list[str]) -> tuple[Any, list[Sidecar]]:
    """Return Megatron's validated arguments, checked against ours and against the data, and the sidecars of the data.

    Args:
        argv: the command line with all flags that device and data ask for.

    Raises:
        UserError: Megatron or a check of ours refuses it.
    """
    args = parse(argv)
    check(args)
    rope.check_asked(of_command_line(argv), picked(rope.RotarySettings, args))
    sidecars = [] if args.mock_data else read_sidecars(data_prefixes(args))
    if not sidecars and not args.mock_data:
        raise UserError("no training data", fix="give data_path, the prefix that `meap preprocess text` wrote")
    if is_sft(sidecars):
        sft_settings.check(args)
    # Megatron divides by the tokens itself where the loss is per token, and gloo cannot average.
    args.ddp_average_in_collective &= not args.calculate_per_token_loss and args.distributed_backend != "gloo"
    check_vocabulary(args.padded_vocab_size, sidecars, data_prefixes(args) if sidecars else [])
    return args, sidecars
