"""Stream the records of a chunk as parsed objects: JSON values, or rows of a parquet file."""

from collections.abc import Collection, Iterator
from typing import Any

from meap_megatron.corpus import hub
from meap_megatron.corpus.cutting import InputChunk
from meap_megatron.corpus.readers import RecordReader, parse_object
from meap_megatron.corpus.sft.record_keys import READ
from meap_megatron.errors import UserError

NumberedRecord = tuple[int, dict[str, Any] | str]


class ObjectReader(RecordReader[dict[str, Any]]):
    """Stream the records of one chunk: (number, object), or (number, reason as str).

    Args:
        chunk: the chunk.
        columns: columns of a parquet file that are read beside those that mean something by their names.

    Attributes:
        unread: the other columns that are not empty, which no record has in it.
    """

    def __init__(self, chunk: InputChunk, *, columns: Collection[str] = ()) -> None:
        super().__init__(chunk)
        self.wanted = {*READ, *columns}
        self.unread: tuple[str, ...] = ()

    def records(self) -> Iterator[NumberedRecord]:
        """Give the records."""
        kind = self.chunk.file.kind
        if kind not in (hub.KIND, "parquet"):
            return self.values(parse_object)
        rows = self.hub_rows() if kind == hub.KIND else self.table_rows(self._columns, _rows_of, batch_size=256)
        return ((n, {key: without_nulls(value) for key, value in record.items()}) for n, record in rows)

    def _columns(self, table: Any) -> list[str]:
        """Return the columns that are read, and note the others."""
        names = [name for name in table.schema_arrow.names if name in self.wanted]
        if not names:
            raise UserError(
                f"{self.chunk.file.path} has the columns {table.schema_arrow.names[:8]}, of which none is known",
                fix="name them with --columns question=COLUMN,answer=COLUMN",
            )
        groups = range(self.chunk.start, self.chunk.stop)
        self.unread = tuple(sorted(filled_columns(table.metadata, groups) - self.wanted))
        return names


def _rows_of(before: int, batch: Any) -> list[dict[str, Any]]:
    del before
    return batch.to_pylist()


def filled_columns(metadata: Any, groups: range) -> set[str]:
    """Return the columns of a parquet file that hold something in these row groups, as far as its statistics tell."""
    names = set()
    for group in (metadata.row_group(number) for number in groups):
        for column in (group.column(number) for number in range(group.num_columns)):
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count < column.num_values:
                names.add(column.path_in_schema.split(".")[0])
    return names


def without_nulls(value: Any) -> Any:
    """Return data of a table without keys that are null: every struct of a column has the keys of all of them."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
