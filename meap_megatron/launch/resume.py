"""Before a run starts: is it done already, and which checkpoint does it continue from?

Reads the command line and the folders it names; neither Megatron nor torch is imported, except torch where a checkpoint
has no manifest. Rank 0 does this for all ranks: what it settles is in the tracker, which Megatron reads later.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from meap_megatron.checkpoint.check import LEVELS, Inspection, Level, inspect
from meap_megatron.checkpoint.choose import Choice, choose
from meap_megatron.checkpoint.folder import (
    RELEASE,
    TRACKER,
    iteration_folder,
    iterations,
    read_tracker,
    set_aside,
    write_tracker,
)
from meap_megatron.checkpoint.retention import LEAST_KEPT
from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import optimizer_state
from meap_megatron.launch.named_settings import Settings

LONGER = (
    "to train longer, raise train_iters and set override_opt_param_scheduler=true (the learning-rate schedule is then that "
    "of the longer run)"
)
"""What to do when a run is complete: its schedule ends with it."""


def same_folder(first: str | None, second: str | None) -> bool:
    """Tell whether two paths are given and name one folder."""
    return first is not None and second is not None and os.path.realpath(first) == os.path.realpath(second)


def check_flags(settings: Settings) -> None:
    """Refuse options under which a damaged checkpoint could be loaded unseen, or the last good one deleted."""
    if settings.has("non_persistent_save_interval", "non_persistent_ckpt_type"):
        raise UserError(
            "non_persistent_save_interval and non_persistent_ckpt_type: such checkpoints are loaded before all others and "
            "have no manifest to check them by",
            fix="use a shorter save_interval with meap_keep_checkpoints=2",
        )
    if settings.has("save_retain_interval"):
        raise UserError(
            "save_retain_interval deletes a checkpoint before the next one is known to be whole",
            fix="use meap_keep_checkpoints=N, which keeps the N newest good ones",
        )
    keep = settings.get("meap_keep_checkpoints")
    if keep is not None and (settings.whole("meap_keep_checkpoints") or 0) < LEAST_KEPT:
        raise UserError(
            f"meap_keep_checkpoints={keep} must be at least {LEAST_KEPT}: if the newest checkpoint is damaged, a run "
            "continues from the one before it"
        )


def last_step(settings: Settings) -> int | None:
    """Return the step at which training ends; None if the settings do not tell it."""
    if (steps := settings.whole("train_iters")) is not None:
        return steps
    samples, batch = settings.whole("train_samples"), settings.whole("global_batch_size")
    if samples is None or not batch or settings.has("rampup_batch_size", "step_batch_size_schedule"):
        return None
    return samples // batch


def finished(settings: Settings) -> str | None:
    """Return what to say if a run has reached its last step, else None.

    Only a run that continues in its own folder (`load` is `save`) can be finished: other ones validate what they load, or
    start from it. Names and sizes are looked at, no contents.
    """
    if not same_folder(settings.get("load"), settings.get("save")):
        return None
    if settings.has("finetune", "skip_train", "ckpt_step", "ckpt_convert_format", "perform_rl_step"):
        return None
    steps = last_step(settings)
    folder = Path(str(settings.get("load")))
    # Most starts end here: no checkpoint is looked at unless one could be the last.
    if not steps or max(iterations(folder), default=0) < steps:
        return None
    iteration = choose(folder, "sizes").iteration
    if iteration is None or iteration < steps:
        return None
    return f"complete at step {iteration} of {steps}; {LONGER}"


def prepare(settings: Settings, *, show: Callable[[str], None]) -> None:
    """Check the checkpoint that Megatron is going to load, and see to it that it loads a good one. On rank 0 only.

    In the run's own folder (`load` is `save`) a damaged checkpoint is renamed to damaged-iter_NNNNNNN, an interrupted save
    stays until the same step is saved again, and the tracker is set to the newest good one. Any other folder is only read.

    Raises:
        UserError: there are checkpoints and none can be loaded; one cannot that is not this run's to replace; or its
            optimizer state is of another form than this run's.
        RunError: a damaged one cannot be renamed.
    """
    level: Level = next((name for name in LEVELS if name == settings.get("meap_check_checkpoint")), "auto")
    load, pretrained = settings.get("load"), settings.get("pretrained_checkpoint")
    if load is not None and pretrained is None and not same_folder(load, settings.get("save")):
        require_any(Path(load))
    if load is not None and Path(load).is_dir():
        prepare_load(Path(load), settings, level, show)
        step = settings.whole("ckpt_step") or read_tracker(Path(load)).iteration
        if step is not None:
            optimizer_state.require_same(iteration_folder(Path(load), step), settings)
    if pretrained is not None and (load is None or not (Path(load) / TRACKER).is_file()):
        require_good(Path(pretrained), level, "pretrained_checkpoint")


def require_any(folder: Path) -> None:
    """Refuse to load from a folder without checkpoints that is not this run's own, where its first start finds none."""
    if read_tracker(folder).text is not None or iterations(folder) or (folder / RELEASE).is_dir():
        return
    meant = "name the `save` folder of a run, or leave load out"
    if folder.name == RELEASE or folder in map(partial(iteration_folder, folder.parent), iterations(folder.parent)):
        meant = f"name the folder that contains it, load={folder.parent}"
        meant += "" if folder.name == RELEASE else f" with ckpt_step={int(folder.name.rpartition('_')[2])}"
    raise UserError(
        f"load={folder} holds no checkpoint (no {TRACKER}, no iter_NNNNNNN), and the run would begin with random weights",
        fix=meant,
    )


def origin(settings: Settings) -> str:
    """Return what to say of where the weights of the run come from."""
    load, pretrained = settings.get("load"), settings.get("pretrained_checkpoint")
    for folder, name in ((load, "load"), (pretrained, "pretrained_checkpoint")):
        tracker = read_tracker(Path(folder)) if folder is not None else None
        if folder is None or tracker is None or tracker.text is None:
            continue
        if name == "load" and not tracker.release and not settings.has("finetune"):
            step = settings.whole("ckpt_step") or tracker.iteration
            return f"continuing from {folder}" + (f" after step {step:,}" if step else "")
        return f"weights from {folder} ({name}); training starts at its first step"
    return "weights are drawn at random (no checkpoint in load, and no pretrained_checkpoint)"


def prepare_load(folder: Path, settings: Settings, level: Level, show: Callable[[str], None]) -> None:
    """See `prepare`, for the folder that `load` names."""
    own = same_folder(str(folder), settings.get("save"))
    tracker = read_tracker(folder)
    if (step := settings.whole("ckpt_step")) and not tracker.release:
        require(inspect(iteration_folder(folder, step), level), f"ckpt_step={step}")
        if own and tracker.text is not None and tracker.iteration is None:
            write_tracker(folder, step)  # Megatron reads it all the same, and ends without a word if it is torn
        return
    if not own:
        require_good(folder, level, "load")
        return
    if tracker.release:
        require(inspect(folder / RELEASE, level), f"load={folder}")
        return
    choice = choose(folder, level)
    if choice.chosen is None:
        restart(folder, choice, show)
        return
    name_faults(folder, choice, show)
    if not choice.passed_over and choice.tracker.iteration == choice.iteration:
        return
    try:
        for bad in choice.damaged:
            show(f"{bad.checkpoint.name} is kept as {set_aside(bad.checkpoint, 'damaged').name}")
        write_tracker(folder, choice.iteration or 0)
    except OSError as error:
        raise RunError(f"cannot rename the damaged checkpoint in {folder}: {error.strerror}") from None
    show(f"continuing from {choice.chosen.checkpoint.name}, the newest good checkpoint in {folder}")


def name_faults(folder: Path, choice: Choice, show: Callable[[str], None]) -> None:
    """Say what is wrong with each checkpoint that is passed over, and with the tracker."""
    for bad in (*choice.broken_off, *choice.passed_over):
        show(f"{folder}: {bad.explain()}")
    if choice.missing is not None:
        show(f"{folder}: {TRACKER} names {choice.missing.name}, which does not exist")
    elif choice.tracker.iteration is None:
        show(f"{folder}: {TRACKER} {'is missing' if choice.tracker.text is None else 'names no step'}")


def restart(folder: Path, choice: Choice, show: Callable[[str], None]) -> None:
    """Let a run whose first save was interrupted start at step 0; refuse it if a checkpoint was lost.

    Raises:
        UserError: a checkpoint that was whole once, or that the tracker names, is damaged or gone.
    """
    if choice.damaged or choice.missing is not None:
        gone = f"; {TRACKER} names {choice.missing.name}, which does not exist" if choice.missing else ""
        found = "; ".join(bad.explain() for bad in choice.passed_over)
        raise UserError(
            f"no checkpoint in {folder} can be loaded: {found}{gone}",
            fix="put one back from a copy, or move the folder away to start at step 0",
        )
    if not choice.passed_over and choice.tracker.text is None:
        return  # nothing was ever saved here
    name_faults(folder, choice, show)
    if choice.tracker.text is not None:
        os.replace(folder / TRACKER, folder / f"unfinished-{TRACKER}")
    show(f"{folder} holds no finished checkpoint: starting again before the first one")


def require_good(folder: Path, level: Level, setting: str) -> None:
    """Refuse to read from a folder that is not this run's if what its tracker names is not whole."""
    if read_tracker(folder).release:
        if (folder / RELEASE).is_dir():
            require(inspect(folder / RELEASE, level), f"{setting}={folder}")
        return
    choice = choose(folder, level)
    if choice.chosen is not None and not choice.passed_over and choice.tracker.iteration == choice.iteration:
        return
    if choice.chosen is None and not choice.passed_over and choice.tracker.text is None:
        if setting == "load":
            return  # nothing there: Megatron's own rules, exit_on_missing_checkpoint among them
        raise UserError(f"{setting}={folder} holds no checkpoint (no {TRACKER}, no iter_NNNNNNN)")
    faults: list[str] = []
    name_faults(folder, choice, faults.append)
    way_out = (
        f"write {choice.iteration} into {folder / TRACKER} to use {choice.chosen.checkpoint.name}, the newest good one"
        if choice.chosen is not None
        else "name a folder with a whole checkpoint"
    )
    raise UserError(
        f"{setting}={folder} cannot be used as it is: {'; '.join(faults)}. It is left unchanged", fix=way_out
    )


def require(found: Inspection, setting: str) -> None:
    """Refuse one checkpoint if it cannot be loaded."""
    if not found.loadable:
        raise UserError(f"{setting}: {found.checkpoint.parent}: {found.explain()}", fix="name another checkpoint")
