"""Colours and columns of a terminal, and what a run says on it."""

import sys
import unicodedata

BAR = 40  # columns of the longest bar
MASKED, QUIET, EDGE, OFF = "\x1b[30;43m", "\x1b[2m", "\x1b[36m", "\x1b[0m"


def visible(text: str) -> str:
    """Return text on one line: control characters as escapes, a leading space as a middle dot."""
    escaped = "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else char.encode("unicode_escape").decode()
        for char in text
    )
    return escaped.replace(" ", "·")


def fit(text: str, width: int) -> str:
    """Cut or pad text to a width in terminal columns; East Asian characters take two."""
    out, used = "", 0
    for char in text:
        columns = 0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        if used + columns > width:
            return out[:-1] + "…" + " " * (width - used) if out else " " * width
        out, used = out + char, used + columns
    return out + " " * (width - used)


def say(text: str) -> None:
    """Print a line on stderr, behind the name of the program."""
    print(f"meap: {text}", file=sys.stderr)
