import gzip
import json
from pathlib import Path

import pytest
import zstandard

from meap_megatron.corpus.cutting import cut
from meap_megatron.corpus.inputs import find_inputs
from meap_megatron.corpus.readers import ChunkReader
from meap_megatron.errors import UserError

LINES = [json.dumps({"text": f"line {i} " + "é" * (i % 5)}, ensure_ascii=i % 2 == 0) for i in range(40)]
RAW = ("\n".join(LINES) + "\n").encode()


def read(path: Path, *, chunk_bytes: int = 10**9, key: str = "text") -> list[tuple[str, bytes | str]]:
    """Return (place, text or reason) of every document of a file."""
    documents = []
    for chunk in cut(find_inputs([str(path)]).files[0], chunk_bytes):
        reader = ChunkReader(chunk, key=key)
        documents += [(reader.place(number), text) for number, text in reader]
        assert reader.consumed == chunk.size
    return documents


@pytest.mark.parametrize("chunk_bytes", [1, 7, 50, 333, 10**6])
def test_byte_ranges_give_each_line_once_and_with_its_number(tmp_path: Path, chunk_bytes: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(RAW)
    expected = [(f"{path}:{i + 1}", json.loads(line)["text"].encode()) for i, line in enumerate(LINES)]
    assert read(path, chunk_bytes=chunk_bytes) == expected


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json.gz", ".jsonl.zst", ".json"])
def test_compressed_lines_are_the_plain_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    # Two members: `cat a.gz b.gz` is a valid .gz, and so it is with .zst.
    path.write_bytes(pack(RAW[:500]) + pack(RAW[500:]))
    assert [text for _, text in read(path)] == [json.loads(line)["text"].encode() for line in LINES]


def test_a_text_file_is_one_document_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo \n")
    (tmp_path / "y.txt.gz").write_bytes(gzip.compress("zwölf".encode()))
    assert read(tmp_path / "x.txt") == [(f"{tmp_path}/x.txt:1", b"one\r\n\r\ntwo \n")]
    assert [text for _, text in read(tmp_path / "y.txt.gz")] == ["zwölf".encode()]


@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
def test_parquet_rows_are_documents_and_bad_rows_have_their_number(tmp_path: Path, chunk_bytes: int) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": [1, 2, 3, 4, 5], "body": ["a", "é", None, "", "e"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    places = [f"{tmp_path}/x.parquet: row {i}" for i in range(1, 6)]
    texts = [b"a", "é".encode(), "'body' is null", b"", b"e"]
    expected = list(zip(places, texts, strict=True))
    assert read(tmp_path / "x.parquet", chunk_bytes=chunk_bytes, key="body") == expected
    with pytest.raises(UserError, match=r"no column 'text', only \['id', 'body'\]"):
        read(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="'id' contains int64, expected strings"):
        read(tmp_path / "x.parquet", key="id")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "invalid JSON"),
        (b'["a"]', "expected an object"),
        (b'{"body": "a"}', r"no key 'text', only \['body'\]"),
        (b'{"text": 5}', "a number, expected a string"),
        (b'{"text": null}', "is null, expected a string"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 10"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "invalid JSON"),
    ],
)
def test_a_bad_line_has_a_reason_and_the_lines_around_it_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    import re

    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "1"}\n\n' + line + b'\n{"text": "4"}')  # a blank line, and no newline at the end
    first, bad, last = read(path)
    assert (first, last) == ((f"{path}:1", b"1"), (f"{path}:4", b"4"))
    assert bad[0] == f"{path}:3"
    assert isinstance(bad[1], str) and re.search(reason, bad[1])


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)])
@pytest.mark.parametrize("damage", ["cut", "flip", "plain"])
def test_a_damaged_archive_is_an_error_that_names_it(tmp_path: Path, suffix: str, pack, damage: str) -> None:  # type: ignore[no-untyped-def]
    packed = pack(RAW * 20)
    middle = len(packed) // 2
    path = tmp_path / f"x.jsonl{suffix}"
    flipped = packed[:middle] + bytes(byte ^ 255 for byte in packed[middle : middle + 8]) + packed[middle + 8 :]
    path.write_bytes({"cut": packed[:middle], "flip": flipped, "plain": RAW}[damage])
    with pytest.raises(UserError, match=str(path)):
        for _, text in read(path):
            if isinstance(text, str):  # flipped bits may also give bad lines
                raise UserError(f"{path}: {text}")
