"""The entry point, a drop-in for Megatron's `pretrain_gpt.py`.

    python -m meap_megatron.training.pretrain <Megatron flags> --meap-mask-ratio 0.15

takes Megatron's own command line. On a machine without a GPU the flags that a CPU needs are added. With data that has a
sidecar, tokenizer and vocabulary size need not be given. `main` is what `meap train` calls.
"""

import argparse
import contextlib
import io
import math
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.corpus.sidecar import Sidecar
from meap_megatron.errors import RunError, UserError
from meap_megatron.training import platform
from meap_megatron.training.arguments import add_meap_arguments, check

FULL_DISK_BYTES = 2**16
DATA_FLAGS = ("--data-path", "--train-data-path", "--valid-data-path", "--test-data-path")


def flag_values(argv: list[str], flag: str) -> list[str]:
    """Return the values that a command line gives to `flag` (`--flag a b` or `--flag=a`), [] if it is absent."""
    values: list[str] = []
    taking = False
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            taking = name == flag
            if taking and equals:
                values.append(value)
        elif taking:
            values.append(word)
    return values


def named_prefixes(argv: list[str]) -> list[str]:
    """Return the dataset prefixes on a command line, without blend weights."""
    words = [word for flag in DATA_FLAGS for word in flag_values(argv, flag)]
    return [word for word in words if not is_number(word)]


def is_number(word: str) -> bool:
    """Tell whether a word of a blend is a weight."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def data_flags(argv: list[str]) -> list[str]:
    """Return the flags that follow from the data: vocabulary, and for fine-tuning segments, loss and steps."""
    prefixes = named_prefixes(argv)
    if not prefixes:
        named = ("--mock-data", "--data-args-path", "--per-split-data-args-path")
        if not any(word.split("=")[0] in named for word in argv):
            raise UserError("no training data: give data_path, the prefix that `meap preprocess` wrote")
        return []
    from meap_megatron.training.data import is_sft, read_sidecars

    sidecars = read_sidecars(prefixes)
    check_split(argv, sidecars, prefixes)
    flags = tokenizer_flags(argv, sidecars)
    if is_sft(sidecars):
        # Segments of a packed row must not see each other: Megatron's name for that is inter-document masking.
        flags.append("--dataloader-inter-document-masking")
        if flag_values(argv, "--meap-sft-loss") != ["microbatch_mean"]:
            flags.append("--calculate-per-token-loss")
    if flag_values(argv, "--meap-epochs"):
        flags.append(f"--train-iters={steps_of_epochs(argv, sidecars, prefixes)}")
    return flags


def check_split(argv: list[str], sidecars: list[Sidecar], prefixes: list[str]) -> None:
    """Refuse a split so small that it holds no document.

    Raises:
        UserError: naming the split and the data.
    """
    words = flag_values(argv, "--split")
    if not words or flag_values(argv, "--data-path") == []:
        return
    try:
        shares = [float(share) for share in words[-1].split(",")]
    except ValueError:
        raise UserError(f"split={words[-1]} must be three numbers, for example 98,2,0") from None
    names = ("train", "valid", "test")
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        for name, share in zip(names, shares, strict=False):
            if share > 0 and round(sidecar.num_documents * share / sum(shares)) == 0:
                raise UserError(
                    f"the {name} split of {prefix} is empty: {sidecar.num_documents:,} documents, split {words[-1]}; give "
                    "that split a larger share (split=80,20,0), or none (split=100,0,0 with eval_iters=0)"
                )


def steps_of_epochs(argv: list[str], sidecars: list[Sidecar], prefixes: list[str]) -> int:
    """Return the steps that `--meap-epochs` asks for.

    Raises:
        UserError: epochs of pre-training data or of a blend; steps and epochs both given; a flag it needs is missing.
    """
    from meap_megatron.training import sft
    from meap_megatron.training.data import is_sft

    if not is_sft(sidecars) or len(prefixes) != 1:
        raise UserError("meap_epochs counts passes over one fine-tuning dataset; give train_iters instead")
    if flag_values(argv, "--train-iters"):
        raise UserError("train_iters and meap_epochs are both given; keep one (train_iters=null drops a recipe's)")
    parser = add_meap_arguments(argparse.ArgumentParser(allow_abbrev=False))
    parser.add_argument("--seq-length", type=int)
    parser.add_argument("--global-batch-size", type=int)
    parser.add_argument("--split", default="969,30,1")  # Megatron's default
    parser.add_argument("--seed", type=int, default=1234)
    args, _ = parser.parse_known_args(argv)
    for name in ("seq_length", "global_batch_size"):
        if getattr(args, name) is None:
            raise UserError(f"meap_epochs needs {name}")
    if args.meap_epochs <= 0:
        raise UserError(f"meap_epochs={args.meap_epochs} must be above 0")
    return sft.epoch_steps(args, sidecars[0], prefixes[0])


def tokenizer_flags(argv: list[str], sidecars: list[Sidecar]) -> list[str]:
    """Return the flags that give Megatron the vocabulary of the data, unless the command line names a tokenizer.

    Training never tokenises, so Megatron's placeholder tokenizer with the size from the sidecar is all it needs.
    """
    if flag_values(argv, "--tokenizer-type") or flag_values(argv, "--vocab-size"):
        return []
    size = max(sidecar.tokenizer.vocab_size for sidecar in sidecars)
    flags = ["--tokenizer-type=NullTokenizer", f"--vocab-size={size}"]
    if not flag_values(argv, "--padded-vocab-size"):
        multiple = whole_number(argv, "--make-vocab-size-divisible-by", default=128)
        ranks = whole_number(argv, "--tensor-model-parallel-size", default=1)
        flags.append(f"--padded-vocab-size={padded_rows(size, multiple=multiple, tensor_parallel=ranks)}")
    return flags


def whole_number(argv: list[str], flag: str, *, default: int) -> int:
    """Return the value that a command line gives to a flag.

    Raises:
        UserError: it is no whole number of at least 1.
    """
    words = flag_values(argv, flag)
    if not words:
        return default
    if not words[-1].isdecimal() or int(words[-1]) < 1:
        raise UserError(f"{flag} {words[-1]} must be a whole number of at least 1")
    return int(words[-1])


def padded_rows(size: int, *, multiple: int, tensor_parallel: int) -> int:
    """Return the rows of the embedding: the least multiple of both numbers that holds `size` ids.

    Megatron pads to a multiple of their product, so that one recipe would give another model on another layout.
    """
    step = math.lcm(multiple, tensor_parallel)
    return -(-size // step) * step


@contextlib.contextmanager
def output_to(path: Path | None) -> Iterator[TextIO]:
    """Send this process's stdout and stderr, of native code too, to a file; yield the stream that still reaches people.

    Args:
        path: the log file, appended to; None: change nothing.
    """
    if path is None:
        yield sys.stdout
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write the log {path}: {error.strerror}; set save to a folder that can be written"
        ) from None
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    screen = os.fdopen(os.dup(saved_out), "w", buffering=1, encoding="utf-8")
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield screen
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the disk of the log is full: that must not hide the reason
                stream.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        for descriptor in (saved_out, saved_err, log):
            os.close(descriptor)
        screen.close()


def parse(argv: list[str]) -> Any:
    """Let Megatron parse and validate the command line.

    Raises:
        UserError: Megatron refuses it; the message is Megatron's.
    """
    from megatron.training.arguments import parse_and_validate_args

    said = io.StringIO()
    saved, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        with contextlib.redirect_stderr(said), refusing():
            return parse_and_validate_args(extra_args_provider=add_meap_arguments)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        message = said.getvalue().strip().splitlines()
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


def log_path(argv: list[str]) -> Path | None:
    """Return this rank's log file if `--meap-log FOLDER` asks for one."""
    folder = flag_values(argv, "--meap-log")
    return Path(folder[-1]) / f"rank-{os.environ.get('RANK', '0')}.log" if folder else None


def run(argv: list[str], screen: TextIO) -> None:
    """Train in this process as the rank that the environment names.

    Args:
        argv: Megatron flags and `--meap-*` flags.
        screen: where progress lines go.
    """
    platform.set_thread_policy()
    device = platform.resolve_device((flag_values(argv, "--meap-device") or ["auto"])[-1])
    platform.prepare(device)
    argv = [*argv, *platform.flags_for(device, argv)]

    from megatron.core.enums import ModelType
    from megatron.training import pretrain
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from meap_megatron.training import data, sft
    from meap_megatron.training.model import model_config
    from meap_megatron.training.report import install_metrics
    from meap_megatron.training.step import make_forward_step

    args = parse(argv)
    check(args)
    sidecars = [] if args.mock_data else data.read_sidecars(data.data_prefixes(args))
    if not sidecars and not args.mock_data:
        raise UserError("no training data: give data_path, the prefix that `meap preprocess text` wrote")
    args.meap_is_sft = data.is_sft(sidecars)
    if args.meap_is_sft:
        sft.check(args)
    else:
        sft.check_unused(args)
    data.check_vocabulary(args, sidecars, data.data_prefixes(args) if sidecars else [])
    mask_token_id = data.mask_config(args, sidecars).mask_id if args.meap_mask_ratio > 0 else None

    with refusing():
        container = pretrain_cfg_container_from_args(args, model_config(args, device=device))
    reporter = install_metrics(args, device=device, screen=screen)
    provider = data.make_provider(args, sidecars, reporter.start)
    forward_step = reporter.timed(make_forward_step(args, mask_token_id=mask_token_id))
    try:
        pretrain(container, provider, ModelType.encoder_or_decoder, forward_step)
    except SystemExit:  # how Megatron ends at a signal, a time limit or --exit-interval
        reporter.close(failed=False)
        raise
    except BaseException:
        # A full disk, say: closing must not replace the reason.
        with contextlib.suppress(OSError):
            reporter.close(failed=True)
        raise
    reporter.close(failed=False)


def main(argv: list[str] | None = None) -> int:
    """Train; return 0, or 1 for a failed run, 2 for refused input. See the module's text."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("MEAP_DEBUG", "") not in ("", "0")
    rank = os.environ.get("RANK", "0")
    failure: UserError | RunError | None = None
    log = None
    try:
        # Before Megatron is imported and anything is written: this finds most faults in half a second.
        argv += data_flags(argv)
        log = log_path(argv)
    except UserError as error:
        return complain(error, rank=rank, debug=debug)
    try:
        output = contextlib.ExitStack()
        screen = output.enter_context(output_to(log))
    except UserError as error:
        return complain(error, rank=rank, debug=debug)
    with output:
        try:
            run(argv, screen)
        except (UserError, RunError) as error:
            failure = error
        except BaseException as error:  # torch's CheckpointException is no Exception
            if log is None or debug or isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            with contextlib.suppress(OSError):
                traceback.print_exc()
            reason = full_disk(log) or other_schedule(error) or f"{type(error).__name__}: {error}"
            failure = RunError(f"rank {rank}: {reason}\nfull log: {log}")
    return 0 if failure is None else complain(failure, rank=rank, debug=debug)


def other_schedule(error: BaseException) -> str | None:
    """Return what to say if a run goes on with another learning-rate schedule than its checkpoint was made with."""
    if not (isinstance(error, AssertionError) and "OptimizerParamScheduler" in str(error)):
        return None
    return (
        f"the learning-rate schedule is not the one of the checkpoint ({error}); give the settings of the first run, or "
        "override_opt_param_scheduler=true to go on with the new schedule"
    )


def full_disk(log: Path) -> str | None:
    """Return what to say if the disk of a run is full; Megatron's own report does not name the cause."""
    try:
        free = shutil.disk_usage(log.parent).free
    except OSError:
        return None
    if free > FULL_DISK_BYTES:
        return None
    return f"No space left on device: {free:,} bytes are free at {log.parent}; make room, then start the same command again"


def complain(failure: UserError | RunError, *, rank: str, debug: bool) -> int:
    """Say what is wrong, once per machine if it is the input that all ranks read; return the exit status."""
    if debug:
        raise failure
    if os.environ.get("LOCAL_RANK", "0") == "0" or not isinstance(failure, UserError):
        where = "" if rank == "0" or "rank " in str(failure) else f"rank {rank} on {socket.gethostname()}: "
        print(f"meap: error: {where}{failure}", file=sys.stderr)
    return failure.exit_status


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
