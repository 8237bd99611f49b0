"""The folder of the demo: made, or an earlier demo in it put aside until the new one is complete."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from meap_megatron.errors import UserError

OWN_NAMES = (
    *("corpus", "tokenizer", "data", "recipes", "runs", "hf"),
    *("index.html", "report.html", "demo.png", "demo.json"),
)
"""What the demo writes into its folder; nothing else there is ever touched."""

EARLIER = ".earlier-demo"
"""Where an earlier demo is meanwhile. The files of a demo name its folder, so that the new one cannot be made elsewhere."""
MOVING, REMOVED = f"{EARLIER}.moving", f"{EARLIER}.removed"


@contextlib.contextmanager
def room_for(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Make the folder ready for a demo; with `overwrite`, an earlier one is removed when the new one is complete.

    Raises:
        UserError: it is a file, or it is not empty and `overwrite` was not given.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file", fix="give a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise UserError(
                f"--out {out} is not empty", fix="give another folder, or --overwrite to replace the demo there"
            )
        put_aside(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {error.strerror}") from None
    try:
        yield
    except BaseException:
        if (out / EARLIER).exists():
            print(f"meap: the earlier demo is kept in {out / EARLIER}", file=sys.stderr)
        raise
    if (out / EARLIER).exists():
        os.rename(out / EARLIER, out / REMOVED)  # at once: half an earlier demo must not be taken for a whole one
        shutil.rmtree(out / REMOVED)


def put_aside(out: Path) -> None:
    """Move an earlier demo to `EARLIER`; where one is there already, what is in the folder is incomplete and goes.

    Killed at any point, the next call ends the same.
    """
    moving = out / MOVING
    if (out / REMOVED).exists():
        shutil.rmtree(out / REMOVED)
    if not (out / EARLIER).exists():
        moving.mkdir(exist_ok=True)
        for name in OWN_NAMES:
            if os.path.lexists(out / name):
                os.rename(out / name, moving / name)
        if any(moving.iterdir()):
            os.rename(moving, out / EARLIER)
        else:
            moving.rmdir()
    for name in OWN_NAMES:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
