"""The two ways a command may fail, and the exit status of each."""

from pathlib import Path
from typing import Any


class UserError(Exception):
    """Input that breaks a rule: exit status 2. Not a `ValueError`, so that what guards a parser does not swallow it.

    The message says what was received, which rule it breaks and what to do, with file and line for data.
    """

    exit_status = 2


class RunError(RuntimeError):
    """A run that failed although its input was accepted (a worker died, the disk is full): exit status 1."""

    exit_status = 1


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for messages.

    Given  1, "row"   or  1000, "row"
    then   "1 row"        "1,000 rows"
    """
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('ch') else 's'}"


LFS_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Refuse a file of a repository that was cloned without Git LFS: a few lines of text where the data should be.

    Raises:
        UserError: the file is such a pointer.
    """
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path} is a Git LFS pointer, not the data: fetch it with `git lfs pull`")


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says of an error, or the kind of the error where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


JSON_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def kind_of(value: Any) -> str:
    """Return what a value is in JSON, for messages."""
    return JSON_KINDS.get(type(value), f"a {type(value).__name__}")
