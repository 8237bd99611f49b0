"""The entry point, a drop-in for Megatron's `pretrain_gpt.py`.

    python -m meap_megatron.training.pretrain <Megatron flags> --meap-mask-ratio 0.15

takes Megatron's own command line. On a machine without a GPU the flags that a CPU needs are added. With data that has a
sidecar, tokenizer and vocabulary size need not be given. `main` is what `meap train` calls.
"""

import argparse
import contextlib
import importlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.declared import picked
from meap_megatron.errors import RunError, UserError
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.launch import environment, fitted, preflight, resume, runtime
from meap_megatron.launch.blend import data_prefixes
from meap_megatron.launch.data_flags import data_flags
from meap_megatron.launch.data_sidecars import is_sft
from meap_megatron.launch.named_settings import Settings, of_command_line
from meap_megatron.launch.outcome import TOLD, saved
from meap_megatron.launch.run_lock import RunLock
from meap_megatron.terminal import is_quiet, muted, print_error, unmuted
from meap_megatron.training import ending, platform
from meap_megatron.training.parsing import refusing, settle
from meap_megatron.training.reasons import reason_of
from meap_megatron.training.startup_sync import as_ours, roll_call

IMPORTED_ONCE = (
    "meap_megatron.datasets.provider",
    "meap_megatron.training.data",
    "meap_megatron.training.model",
    "meap_megatron.training.step",
    "torch._dynamo",
)
"""What every rank imports besides Megatron; torch's optimizers ask for `torch._dynamo`, half a second of processor time."""


def import_once() -> None:
    """Import what every rank needs; Megatron must be there."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)


def before_forks() -> None:
    """Import in the launcher, on a CPU, what every forked rank would import for itself, and read what its parser reads."""
    platform.prepare("cpu")
    import_once()
    from megatron.training.arguments import add_megatron_arguments

    add_megatron_arguments(argparse.ArgumentParser())


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
            f"cannot write the log {path}: {error.strerror}", fix="set save to a folder that can be written"
        ) from None
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    target = os.devnull if is_quiet() else os.dup(saved_out)
    screen = open(target, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        with unmuted():
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


def settled(argv: list[str], *, rank: str) -> list[str]:
    """Return a command line completed by defaults and by what follows from the data, checked before Megatron is imported.

    Raises:
        UserError: settings or data break a rule.
    """

    def show(line: str) -> None:
        if rank == "0":
            print(f"note: {line}", flush=True)

    argv = preflight.complete(argv, world=int(os.environ.get("WORLD_SIZE", "1")), show=show)
    return [*argv, *data_flags(argv)]


def log_path(settings: Settings) -> Path | None:
    """Return this rank's log file if `meap_log` asks for one."""
    folder = settings.get("meap_log")
    return Path(folder) / f"rank-{os.environ.get('RANK', '0')}.log" if folder else None


def configure(argv: list[str]) -> tuple[str, Any, list[Sidecar], Any]:
    """Make Megatron runnable on the device that the command line asks for, and let it read the command line.

    Returns:
        (device, "cpu" or "cuda"; Megatron's validated arguments; sidecars of the data; Megatron's configuration)

    Raises:
        UserError: there is no such device, Transformer Engine cannot be loaded, or a setting is refused.
    """
    settings = of_command_line(argv)
    device = runtime.resolve_device(settings.effective("meap_device"))
    platform.prepare(device, engine_optional=settings.get("transformer_impl") == "local")
    argv = fitted.without_fused_loss([*argv, *platform.flags_for(device, argv)], device=device)

    import torch
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from meap_megatron.training.generators import of_another_device
    from meap_megatron.training.model import model_config

    args, sidecars = settle(argv)
    continues = args.load and not (args.finetune or args.no_load_rng)
    if continues and of_another_device(Path(args.load), args.ckpt_step, backend=args.distributed_backend):
        args.no_load_rng = True
        print(f"random generators start over: those in {args.load} are of another kind of device", flush=True)
    if device == "cuda":
        args.local_rank = platform.local_device(os.environ, visible=torch.cuda.device_count())
        platform.obey_jit_fuser(disabled=args.disable_jit_fuser)
    if args.fake_process_group:
        args.do_train = True  # rank 0 would tell the ranks that read no data
    with refusing():
        return device, args, sidecars, pretrain_cfg_container_from_args(args, model_config(args, device=device))


def run(argv: list[str], screen: TextIO) -> None:
    """Train in this process as the rank that the environment names."""
    device, args, sidecars, container = configure(argv)

    from megatron.core.enums import ModelType
    from megatron.training import pretrain

    from meap_megatron.training import data
    from meap_megatron.training.metrics_writer import install_metrics, metrics_path
    from meap_megatron.training.step import StepSettings, make_forward_step
    from meap_megatron.training.trace import BatchTrace

    reporter = install_metrics(args, device=device, screen=screen)
    provider = data.make_provider(args, sidecars, reporter.start, screen)
    trace = (
        BatchTrace(args.meap_trace, rank=args.rank, step=lambda: args.curr_iteration + 1) if args.meap_trace else None
    )
    step = picked(StepSettings, args)
    forward_step = make_forward_step(step, is_sft=is_sft(sidecars), prefixes=data_prefixes(args), trace=trace)
    before = ending.failed_before(metrics_path(args.meap_metrics, save=args.save))

    def end(status: Any) -> None:
        # Here, not at the start: with train_samples, Megatron sets train_iters later.
        last_line = partial(ending.last_line, picked(ending.EndSettings, args), status)
        reporter.close(failed=False, last_line=last_line)

    try:
        with ending.interruptible(screen, rank=args.rank, saves=args.exit_signal_handler):
            pretrain(container, provider, ModelType.encoder_or_decoder, reporter.timed(forward_step))
    except SystemExit as stop:  # how Megatron ends at a signal, a time limit or --exit-interval
        if stop.code == ending.SAVED_TO_REPEAT and args.world_size == 1 and before == reporter.last_step():
            stop.code = ending.FAILED_AGAIN
        end(stop.code)
        raise
    except BaseException:
        # A full disk, say: closing must not replace the reason.
        with contextlib.suppress(OSError):
            reporter.close(failed=True)
        raise
    end(0)


@muted()
def main(argv: list[str] | None = None) -> int:
    """Train; return 0, or 1 for a failed run, 2 for refused input. See the module's text."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("MEAP_DEBUG", "") not in ("", "0")
    rank = os.environ.get("RANK", "0")
    runtime.set_thread_policy()
    try:
        # Before torch is imported and the driver starts.
        os.environ.update(environment.defaults(of_command_line(given), os.environ))
        # Before Megatron is imported and anything is written: this finds most faults in half a second.
        argv = roll_call().everyone("settings", lambda: settled(given, rank=rank))
        with contextlib.ExitStack() as held:
            finished = roll_call().first("resume", lambda: begin(of_command_line(argv), held))
            if finished:
                if rank == "0":
                    print(finished, flush=True)
                return 0
            return logged(argv, rank=rank, debug=debug)
    except (UserError, RunError) as error:
        return complain(error, rank=rank, debug=debug)
    except OSError as error:  # of a folder or a file system, which names itself
        return complain(as_ours(error), rank=rank, debug=debug)


def begin(settings: Settings, held: contextlib.ExitStack) -> str:
    """Take the lock of the `save` folder and see to the checkpoint; return what to say if nothing is left to train.

    Args:
        held: gives the lock up when it is closed.

    Raises:
        UserError, RunError: another run has the folder; see `resume`.
    """
    resume.check_flags(settings)
    if (done := resume.finished(settings)) is not None:
        return done
    if settings.has("save"):
        lock = RunLock(Path(settings.get("save")))
        lock.acquire(partial(print, flush=True))
        held.callback(lock.release)
    resume.prepare(settings, show=partial(print, flush=True))
    print(resume.origin(settings), flush=True)
    return ""


def logged(argv: list[str], *, rank: str, debug: bool) -> int:
    """Train with Megatron's output in this rank's log; return the exit status.

    Raises:
        UserError, RunError: on every rank, if the log of one cannot be written.
    """
    settings = of_command_line(argv)
    log = log_path(settings)
    failure: UserError | RunError | None = None
    with contextlib.ExitStack() as output:
        screen = roll_call().everyone("log", lambda: output.enter_context(output_to(log)))
        save = settings.get("save")
        ending.end_early()
        try:
            run(argv, screen)
        except (UserError, RunError) as error:
            failure = error
        except BaseException as error:  # torch's CheckpointException is not an Exception
            if isinstance(error, SystemExit) and error.code == TOLD and roll_call().world_size == 1:
                print(f"meap: told to end before a step was done; {saved(save)}", file=screen, flush=True)
            if log is None or debug or isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            with contextlib.suppress(OSError):
                traceback.print_exc()
            failure = RunError(f"rank {rank}: {reason_of(error, log)}\n{saved(save)}\nfull log: {log}")
    return 0 if failure is None else complain(failure, rank=rank, debug=debug)


def complain(failure: UserError | RunError, *, rank: str, debug: bool) -> int:
    """Say what is wrong, once per machine if it is the input that all ranks read; return the exit status."""
    if debug:
        raise failure
    if os.environ.get("LOCAL_RANK", "0") == "0" or not isinstance(failure, UserError):
        named = rank == "0" or "rank " in str(failure)
        print_error(failure if named else failure.at(f"rank {rank} on {socket.gethostname()}"))
    return failure.exit_status


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
