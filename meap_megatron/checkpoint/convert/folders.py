"""Where a converted model may be written."""

from pathlib import Path

from meap_megatron.atomic import disk_errors, restore_folder
from meap_megatron.errors import UserError


def check_free(target: Path, *, overwrite: bool, marker: str) -> None:
    """Refuse a target that exists, unless it is to be replaced and was made by the same command.

    Args:
        marker: a file that the command leaves in every folder it makes.
    """
    with disk_errors(target):
        restore_folder(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / marker).is_file():
        raise UserError(
            f"{target} was not made by this command (it has no {marker}), so --overwrite does not replace it",
            fix="name another folder",
        )
    if not overwrite:
        raise UserError(f"{target} exists already", fix="replace it with --overwrite")
