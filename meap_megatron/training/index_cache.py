"""The sample index of a run: rank 0 has it in the cache before a process group exists, and every rank sees it.

Before the process group, so that a large index is built without a watchdog waiting, no device is held for nothing, and
`meap cache` on a login node does exactly the same.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.errors import UserError
from meap_megatron.training.dataset_settings import IndexRequest
from meap_megatron.training.startup_sync import roll_call

VISIBLE_SECONDS = 30.0
"""How long a node may take to see what rank 0 has written, unless MEAP_VISIBLE_SECONDS says it; network file systems
remember for some seconds what was not there."""


def prepare(wanted: IndexRequest, screen: TextIO) -> Path:
    """Have the index of a run in the cache; called on every rank before there is a process group.

    Args:
        wanted: the index.
        screen: is told about damage, and by rank 0 about an index that it had to build.

    Returns:
        Its cache entry, complete and seen by every rank.

    Raises:
        UserError, RunError: on every rank: data that does not fit, a cache that cannot be written or that a rank
            does not see; the message names rank, host and path.
    """
    from meap_megatron.datasets.provider import check_data, index_key

    call = roll_call()

    def settle() -> str:
        entry = obtain(wanted, screen)
        if entry.built:
            print(f"sample index built in {entry.seconds:.1f} s: {entry.path}", file=screen)
        return json.dumps({"path": str(entry.path), "files": entry.files, "host": socket.gethostname()})

    settled = json.loads(call.first("index", settle))
    path = Path(settled["path"])

    def look() -> None:
        check_data(wanted.config)
        if index_key(wanted.config, sizes=wanted.sizes) != path.name:
            raise UserError(
                "the data or the settings are not those of rank 0; all nodes must see the same files",
                fix="mount one folder on all of them",
            )
        wait_until_visible(path, settled["files"], builder=settled["host"])

    call.everyone("index-visible", look)
    return path


def obtain(wanted: IndexRequest, screen: TextIO) -> Any:
    """Return the `index_folder.Entry` of a run, built by this process if it is missing or, as `screen` is told, damaged."""
    from meap_megatron.datasets.provider import obtain_indices

    return obtain_indices(
        wanted.config,
        sizes=wanted.sizes,
        folders=wanted.folders,
        say=lambda damage: print(f"meap: {damage}", file=screen),
    )


def wait_until_visible(path: Path, files: dict[str, dict[str, int]], *, builder: str) -> None:
    """Wait until this machine sees an entry of the cache as its builder has described it.

    Raises:
        UserError: it does not after `VISIBLE_SECONDS`.
    """
    from meap_megatron.datasets.index_folder import Damaged, read

    deadline = time.monotonic() + float(os.environ.get("MEAP_VISIBLE_SECONDS", VISIBLE_SECONDS))
    while True:
        try:
            entry = read(path, contents=False)
            seen = "it is not there" if entry is None else "it is another one" if entry.files != files else None
        except Damaged as damage:
            seen = str(damage)
        if seen is None:
            return
        if time.monotonic() > deadline:
            raise UserError(
                f"the sample index {path.absolute()}, which rank 0 on {builder} has, is not seen here ({seen})",
                fix="set data_cache_path to a folder that all nodes share, or run `meap cache` on every node",
            )
        time.sleep(0.5)


def data_settings(argv: list[str]) -> Any:
    """Return the arguments of a command line as far as they concern data, and make them Megatron's globals.

    They are parsed by Megatron's parser but not validated: that asks for the devices and the number of processes of the
    job, and this may be a login node. The three defaults below are those of Megatron's validation.

    Raises:
        UserError: Megatron's parser refuses it, or the samples of the run depend on the number of its processes.
    """
    from megatron.training.global_vars import set_args

    from meap_megatron.training.parsing import parse

    args = parse(argv, validate=False)
    if args.global_batch_size is None:
        raise UserError(
            "global_batch_size is not given, and without it the samples depend on the processes",
            fix="set global_batch_size",
        )
    if args.phase_transition_iterations or args.step_batch_size_schedule:
        raise UserError(
            "phase_transition_iterations and step_batch_size_schedule change the samples during the run",
            fix="start the run, it builds its own index",
        )
    if args.eval_global_batch_size is None:
        args.eval_global_batch_size = args.global_batch_size
    if args.data_path is not None and args.split is None:
        args.split = "969, 30, 1"
    args.data_parallel_size = 1
    set_args(args)
    return args
