"""Is everything there that the job reads, and can it write where it must? Without Megatron; nothing is changed."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meap_megatron.atomic import existing_parent
from meap_megatron.checkpoint.choose import choose
from meap_megatron.checkpoint.folder import RELEASE, iteration_folder, read_tracker
from meap_megatron.errors import UserError
from meap_megatron.indexed.pair import open_pair
from meap_megatron.indexed.sidecar import Sidecar, bin_path, check_prefix, idx_path
from meap_megatron.launch import resume
from meap_megatron.launch.data_flags import data_flags
from meap_megatron.launch.data_sidecars import named_prefixes
from meap_megatron.launch.named_settings import Settings, of_command_line
from meap_megatron.launch.preflight import refusal

NO_TOKENIZER_FILE = ("NullTokenizer", "NullMultimodalTokenizer", "TikTokenizer")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the job begins with."""

    step: int
    """Steps already done."""
    samples: int
    """Samples already read."""
    checkpoint: Path | None
    """What is loaded; None: the weights are drawn at random."""


def of_data(argv: list[str]) -> list[str]:
    """Return the flags that follow from the data.

    Raises:
        UserError: data is missing, not what its sidecar says, or does not fit the settings.
    """
    flags = data_flags(argv)
    for prefix in named_prefixes(of_command_line(argv)):
        check_end(prefix, check_prefix(prefix))
    return flags


def check_end(prefix: str, sidecar: Sidecar) -> None:
    """Refuse an index of other data, which may have the same size: its last document ends elsewhere."""
    pair = open_pair(prefix)
    end = int(pair.pointers[-1]) + int(pair.lengths[-1]) * np.dtype(sidecar.dtype).itemsize if len(pair.lengths) else 0
    if end != sidecar.bin_bytes:
        raise UserError(
            f"{idx_path(prefix)} is stale: its last document ends at byte {end:,}, {bin_path(prefix)} has "
            f"{sidecar.bin_bytes:,}",
            fix="copy both again, or make the dataset again",
        )


def of_tokenizer(settings: Settings) -> list[UserError]:
    """Return what is wrong with a tokenizer that the recipe names; the data has its own, and training needs no other."""
    kind, path = settings.get("tokenizer_type"), settings.get("tokenizer_model")
    if kind is None or kind in NO_TOKENIZER_FILE:
        return []
    leave_out = "leave tokenizer_type and tokenizer_model out, training does not tokenise"
    if path is None and settings.get("vocab_file") is None:
        return [
            UserError(f"{settings.where('tokenizer_type')}tokenizer_type={kind} has no tokenizer_model", fix=leave_out)
        ]
    if path is not None and not Path(str(path)).exists():
        return [
            UserError(
                f"{settings.where('tokenizer_model')}tokenizer_model={path} is not a file or folder here; a compute node "
                "may not be able to download it",
                fix=leave_out,
            )
        ]
    return []


def of_folders(settings: Settings) -> list[UserError]:
    """Return which folders the job cannot write."""
    found = []
    for name in ("save", "meap_log", "tensorboard_dir", "data_cache_path"):
        path = settings.get(name)
        if path is not None and (reason := why_not_writable(Path(str(path)))) is not None:
            found.append(
                UserError(
                    f"{settings.where(name)}{name}={path} cannot be written: {reason}", fix="name another folder"
                )
            )
    return found


def why_not_writable(folder: Path) -> str | None:
    """Return why a file cannot be made in a folder, or in the folder above in which it would be made; None if it can.

    It is tried: permission bits say nothing about read-only file systems, quotas and root.
    """
    try:
        existing = existing_parent(folder)
        if not existing.is_dir():
            return f"{existing} is a file"
        os.rmdir(tempfile.mkdtemp(prefix=".meap-rehearsal-", dir=existing))
    except OSError as error:
        return f"{existing}: {error.strerror}"
    return None


def of_checkpoints(settings: Settings, findings: list[UserError]) -> Start:
    """Return what the job begins with; what it cannot begin with is added to `findings`."""
    load, save, pretrained = (settings.get(name) for name in ("load", "save", "pretrained_checkpoint"))
    findings += refusal(lambda: resume.check_flags(settings))
    if load is None and save is not None and (own := newest(Path(str(save)), findings)) is not None:
        last = resume.last_step(settings)
        if last is not None and own.step >= last:
            findings.append(
                UserError(
                    f"{settings.where('save')}save={save} holds step {own.step:,} and the run ends at step {last:,}: the "
                    "job would end at once",
                    fix="raise train_iters, or save to another folder",
                )
            )
        return own
    if load is not None:
        where = settings.where("load")
        before = len(findings)
        start = newest(Path(str(load)), findings)
        if start is not None:
            return Start(step=0, samples=0, checkpoint=start.checkpoint) if settings.on("finetune") else start
        if len(findings) == before and not resume.same_folder(str(load), str(save)):
            findings.append(
                UserError(
                    f"{where}load={load} holds no checkpoint, and the run would silently begin with random weights",
                    fix="correct the path, or leave load out",
                )
            )
    if pretrained is not None:
        folder = Path(str(pretrained))
        findings += refusal(lambda: resume.require_good(folder, "sizes", "pretrained_checkpoint"))
        found = newest(folder, [])
        return Start(step=0, samples=0, checkpoint=found.checkpoint if found else None)
    return Start(step=0, samples=0, checkpoint=None)


def newest(folder: Path, findings: list[UserError]) -> Start | None:
    """Return the checkpoint of a folder that a run would load, None if it has none."""
    if not folder.is_dir():
        return None
    if read_tracker(folder).release:
        return Start(step=0, samples=0, checkpoint=folder / RELEASE)
    choice = choose(folder, "sizes")
    if choice.iteration is None or choice.chosen is None:
        if choice.damaged or choice.missing is not None:
            wrong = "; ".join(bad.explain() for bad in choice.passed_over) or f"{choice.missing} does not exist"
            findings.append(UserError(f"no checkpoint in {folder} can be loaded: {wrong}"))
        return None
    manifest = choice.chosen.manifest
    return Start(
        step=choice.iteration,
        samples=(manifest.consumed_samples or 0) if manifest is not None else 0,
        checkpoint=iteration_folder(folder, choice.iteration),
    )
