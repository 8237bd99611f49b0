"""The two ways a command may fail, and the exit status of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self


class _Failure(Exception):
    """What went wrong and what to do about it; `str` is both in one text, `shown` is what a terminal gets.

    Args:
        problem: what was received and which rule it breaks, with file and line for data.
        fix: what to do, an imperative; None: nothing that is known here.
        parts: the failures that `problem` is the heading of, each with its own fix.
    """

    def __init__(self, problem: str, *, fix: str | None = None, parts: "Sequence[_Failure]" = ()) -> None:
        super().__init__(problem)
        self.problem, self.fix, self.parts = problem, fix, tuple(parts)

    def __str__(self) -> str:
        text = "\n".join([self.problem, *self._numbered(map(str, self.parts))])
        return text + ("\n" if "\n" in text else "; ") + self.fix if self.fix else text

    def at(self, place: str) -> Self:
        """Return the same failure with the place where it was found before it."""
        return type(self)(f"{place}: {self.problem}", fix=self.fix, parts=self.parts)

    def rewritten(self, change: Callable[[str], str]) -> Self:
        """Return the same failure with every text of it changed."""
        fix = change(self.fix) if self.fix else None
        return type(self)(change(self.problem), fix=fix, parts=[part.rewritten(change) for part in self.parts])

    def shown(self, *, colour: bool = False) -> str:
        """Return the lines for a terminal: the problem, and under it, or under each of its parts, the fix."""
        fix = "\033[1;32mfix:\033[0m" if colour else "fix:"
        lines = [self.problem, *self._numbered(part.shown(colour=colour) for part in self.parts)]
        return "\n".join(lines + ([f"  {fix} {self.fix}"] if self.fix else []))

    def _numbered(self, texts: Iterable[str]) -> Iterator[str]:
        return (f"  {number}. {text.replace('\n', '\n   ')}" for number, text in enumerate(texts, 1))


class UserError(_Failure):
    """Input that breaks a rule: exit status 2. Not a `ValueError`, so that what guards a parser does not swallow it."""

    exit_status = 2


class RunError(_Failure, RuntimeError):
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
                raise UserError(f"{path} is a Git LFS pointer, not the data", fix="fetch it with `git lfs pull`")


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
