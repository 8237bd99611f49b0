"""Stream the rows of a piece as parsed objects: JSON values, or rows of a parquet file."""

from collections.abc import Iterator
from typing import Any

from meap_megatron.corpus.readers import RecordReader, parse_object
from meap_megatron.corpus.sft.records import COLUMNS
from meap_megatron.errors import UserError

Record = tuple[int, dict[str, Any] | str]


class RowReader(RecordReader[dict[str, Any]]):
    """Stream the rows of one piece: (number, object), or (number, reason as str)."""

    def records(self) -> Iterator[Record]:
        """Give the rows."""
        return self._rows() if self.piece.file.kind == "parquet" else self.values(parse_object)

    def _rows(self) -> Iterator[Record]:
        import pyarrow.parquet

        path = self.piece.file.path
        with pyarrow.parquet.ParquetFile(path) as table:
            names = [name for name in table.schema_arrow.names if name in COLUMNS]
            if not names:
                raise UserError(
                    f"{path} has none of the columns {', '.join(COLUMNS)}, only {table.schema_arrow.names[:8]}"
                )
            groups = range(self.piece.start, self.piece.stop)
            rows = sum(table.metadata.row_group(group).num_rows for group in groups)
            number = 0
            for batch in table.iter_batches(batch_size=256, row_groups=list(groups), columns=names):
                for row in batch.to_pylist():
                    number += 1
                    self.consumed = self.piece.size * number // rows
                    yield number, row
