"""While a run saves: a manifest for every checkpoint, and the removal of old ones.

Megatron has no hook that runs on every rank when a checkpoint is complete, so `redirect` puts `with_manifest` around its
`save_checkpoint` and `with_manifest_afterwards` around the scheduling of asynchronous saves. Both change nothing of what
Megatron writes.
"""

import functools
import queue
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from meap_megatron.checkpoint import manifest
from meap_megatron.checkpoint.folder import file_names, iteration_folder, set_aside
from meap_megatron.checkpoint.manifest import FileEntry, Manifest, ManifestError
from meap_megatron.checkpoint.retention import prune
from meap_megatron.errors import RunError

LAYOUT = {
    "world": "world_size",
    "tensor": "tensor_model_parallel_size",
    "pipeline": "pipeline_model_parallel_size",
    "context": "context_parallel_size",
    "data": "data_parallel_size",
}


class Saving:
    """The save that is under way in this process, if any."""

    def __init__(self) -> None:
        self.current: Manifest | None = None
        self.folder = Path()
        self.own: set[int] = set()
        """Steps that this process has saved: Megatron may save one twice, at a change of the batch size."""

    def begin(self, folder: Path, begun: Manifest) -> None:
        """Mark the folder of a step as unfinished, on rank 0; the other ranks wait."""
        import torch.distributed

        self.folder, self.current = folder, begun
        if torch.distributed.get_rank() == 0:
            overwrite = begun.iteration in self.own
            make_room(iteration_folder(folder, begun.iteration), begun, overwrite=overwrite)
        self.own.add(begun.iteration)
        torch.distributed.barrier()

    def end(self, begun: Manifest, *, keep: int | None) -> None:
        """Compute checksums, every rank those of the files it wrote, and let rank 0 write the manifest.

        Args:
            keep: checkpoints that are not removed; None: all.
        """
        import torch.distributed

        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        checkpoint = iteration_folder(self.folder, begun.iteration)
        # One rank lists the folder for all: hundreds that ask for a thousand files each are a load on a metadata server.
        listed = [file_names(checkpoint) if rank == 0 else []]
        torch.distributed.broadcast_object_list(listed, src=0)
        mine = manifest.file_entries(checkpoint, manifest.share_of_rank(listed[0], rank=rank, world=world))
        gathered: list[Any] | None = [None] * world if rank == 0 else None
        torch.distributed.gather_object(mine, gathered, dst=0)
        if gathered is not None:
            complete(checkpoint, begun, gathered)
            if keep is not None:
                for iteration in prune(self.folder, newest=begun.iteration, keep=keep):
                    print(f"removed the checkpoint of step {iteration}", flush=True)


SAVING = Saving()


def make_room(checkpoint: Path, begun: Manifest, *, overwrite: bool) -> None:
    """Put an unfinished manifest into the folder of a step that is about to be saved.

    What is there already is kept under another name, unless it is an interrupted save, of which no run can
    ever use anything.

    Args:
        checkpoint: .../iter_0000100
        overwrite: this process saved the step before, from the same state.
    """
    if checkpoint.exists() and not overwrite:
        try:
            known = manifest.read(checkpoint)
        except ManifestError:
            set_aside(checkpoint, "damaged")
        else:
            if known is None or known.complete:
                set_aside(checkpoint, "replaced")
            else:
                for name in file_names(checkpoint):
                    if name != manifest.NAME:
                        (checkpoint / name).unlink()
    checkpoint.mkdir(parents=True, exist_ok=True)
    manifest.write(checkpoint, begun)


def complete(checkpoint: Path, begun: Manifest, gathered: list[dict[str, FileEntry | OSError]]) -> None:
    """Write the finished manifest.

    Args:
        checkpoint: .../iter_0000100
        gathered: by rank, the entries of the files it read.

    Raises:
        RunError: a file just written cannot be read back.
    """
    entries = {name: entry for share in gathered for name, entry in share.items()}
    names = [name for name in file_names(checkpoint) if name != manifest.NAME]
    # A rank may not have seen a file of another's yet, on a network file system.
    entries |= manifest.file_entries(checkpoint, [name for name in names if name not in entries])
    files: dict[str, FileEntry] = {}
    for name in sorted(names):
        entry = entries[name]
        if isinstance(entry, OSError):
            raise RunError(f"cannot read back {checkpoint / name}, just written: {entry.strerror}")
        files[name] = entry
    manifest.write(checkpoint, replace(begun, complete=True, written=manifest.now(), files=files))


def with_manifest(save_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Megatron's `save_checkpoint(iteration, ...)`."""

    @functools.wraps(save_checkpoint)
    def save(iteration: int, *args: Any, **kwargs: Any) -> Any:
        from megatron.training import get_args

        settings = get_args()
        if not settings.save or kwargs.get("release") or kwargs.get("non_persistent_ckpt"):
            return save_checkpoint(iteration, *args, **kwargs)
        unfinished = Manifest(
            iteration=iteration,
            complete=False,
            consumed_samples=int(settings.consumed_train_samples),
            layout={name: int(getattr(settings, field)) for name, field in LAYOUT.items()},
            versions=manifest.library_versions(),
            written=manifest.now(),
        )
        SAVING.begin(Path(settings.save), unfinished)
        try:
            result = save_checkpoint(iteration, *args, **kwargs)
            begun, asynchronous = SAVING.current, settings.async_save
        finally:
            SAVING.current = None
        if begun is not None and not asynchronous:
            SAVING.end(begun, keep=settings.meap_keep_checkpoints)
        return result

    return save


def with_manifest_afterwards(schedule_async_save: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Megatron's `schedule_async_save(request)`: the manifest is written when all ranks have finished writing."""

    @functools.wraps(schedule_async_save)
    def schedule(request: Any) -> Any:
        from megatron.training import get_args

        if (begun := SAVING.current) is not None:
            request.add_finalize_fn(functools.partial(SAVING.end, begun, keep=get_args().meap_keep_checkpoints))
        return schedule_async_save(request)

    return schedule


def without_manager(get_queue: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Megatron's `get_write_results_queue`: a save that training waits for is written in this process.

    Megatron starts a server process per rank for the queue, whose first result makes that process import torch; it
    outlives a rank that is killed.
    """

    @functools.wraps(get_queue)
    def get_write_results_queue(*args: Any, **kwargs: Any) -> Any:
        from megatron.core.dist_checkpointing.strategies import filesystem_async
        from megatron.training import get_args

        if filesystem_async._results_queue is None and not get_args().async_save:
            filesystem_async._results_queue = queue.Queue()
        return get_queue(*args, **kwargs)

    return get_write_results_queue
