"""Times, sizes and tables as text, for everything that a person reads; and values as JSON has them."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def clock_time(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float, *, digits: int = 0) -> str:
    """Return a time as "8 s" (with so many digits after the point), "5 min 03 s", "3 h 07 min" or "2 d 4 h"."""
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def bytes_text(count: float) -> str:
    """Return a number of bytes as people read it: 1,536 is "1.5 KiB"."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while count >= 1000 and power < len(units) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.{1 if power and count < 99.95 else 0}f} {units[power]}"


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = ()) -> list[str]:
    """Return one line for each row, its cells to the right of their columns, or to the left in the columns of `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def finite(value: Any) -> Any:
    """Return a value with None for what JSON has no number for: infinity, and what is not a number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value
