"""What happened to records that were not used as they are: counted by kind, with the first place of each."""

from collections.abc import Iterable, Iterator

from meap_megatron.corpus.inputs import InputFile
from meap_megatron.corpus.readers import RecordReader, place_of
from meap_megatron.errors import UserError

Noted = dict[str, list]
"""Kind -> [count, path, start of the chunk, number in it]; all of it JSON. Where a row begins is looked up in the end."""


def note(noted: Noted, kind: str, reader: RecordReader, number: int, *, count: int = 1) -> None:
    """Count a row, or several; remember where the first one is."""
    if kind in noted:
        noted[kind][0] += count
    else:
        noted[kind] = [count, reader.chunk.file.path, reader.chunk.start, number]


def merged(parts: Iterable[Noted]) -> Noted:
    """Return the counts of shards together; the first place of the first of them."""
    total: Noted = {}
    for part in parts:
        for kind, (count, *place) in part.items():
            total[kind] = [total[kind][0] + count, *total[kind][1:]] if kind in total else [count, *place]
    return total


def noted_lines(noted: Noted, files: list[InputFile], texts: dict[str, str]) -> Iterator[str]:
    """Give a line for each kind, the most frequent first.

    Args:
        noted: what was counted.
        files: the inputs.
        texts: what a kind is called; its own name where it has none here.
    """
    by_path = {file.path: file for file in files}
    for kind, (count, path, start, number) in sorted(noted.items(), key=lambda item: (-item[1][0], item[0])):
        yield f"  {texts.get(kind, kind)} ({count:,}): first {place_of(by_path[path], start, number)}"


def refuse_noted(dropped: Noted, unused: Noted, files: list[InputFile], texts: dict[str, str]) -> None:
    """Refuse to drop a row or to leave a key of a row unused.

    Raises:
        UserError: names the first of each kind.
    """
    if not dropped and not unused:
        return
    lines = [*noted_lines(dropped, files, texts), *noted_lines(unused, files, {})]
    raise UserError(
        "--strict: records would be dropped, or have keys that are not used:\n" + "\n".join(lines),
        fix="correct these records, or leave --strict out",
    )
