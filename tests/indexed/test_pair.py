from pathlib import Path

import numpy as np
import pytest

from meap_megatron.indexed import pair as indexed
from meap_megatron.indexed.idx_header import optimal_dtype
from meap_megatron.indexed.pair import PairWriter, length_blocks, one_sequence_per_document, open_pair, write_index

DOCUMENTS = [[5, 6, 7], [8], [], [9, 9, 9, 9, 65_000], [3] * 50]


def write(prefix: Path, dtype: str) -> None:
    writer = PairWriter(Path(f"{prefix}.bin"), Path(f"{prefix}.lengths"), dtype=dtype)
    arrays = [np.array(ids, dtype=np.uint32) for ids in DOCUMENTS]
    writer.add(arrays[:2], before=[1], after=[2])
    writer.add([], before=[1], after=[2])
    writer.add(arrays[2:], before=[1], after=[2])
    writer.close()
    with open(f"{prefix}.idx", "wb") as stream:
        write_index(
            stream,
            dtype=dtype,
            num_sequences=len(DOCUMENTS),
            num_document_indices=len(DOCUMENTS) + 1,
            lengths=lambda: length_blocks([Path(f"{prefix}.lengths")]),
            document_indices=lambda: one_sequence_per_document(len(DOCUMENTS)),
        )


@pytest.mark.parametrize("block", [2, 2**20])
@pytest.mark.parametrize("vocab_size", [65_499, 65_500])
def test_the_bytes_are_those_of_megatrons_builder(
    tmp_path: Path, vocab_size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

    monkeypatch.setattr(indexed, "BLOCK", block)
    write(tmp_path / "ours", optimal_dtype(vocab_size))
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(vocab_size))
    for ids in DOCUMENTS:
        builder.add_document(torch.tensor([1, *ids, 2]), [len(ids) + 2])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()
    dataset = IndexedDataset(str(tmp_path / "ours"))
    assert [row.tolist() for row in dataset] == [[1, *ids, 2] for ids in DOCUMENTS]


def test_our_reader_gives_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "x", "int32")
    pair = open_pair(tmp_path / "x")
    assert [pair[index].tolist() for index in range(len(pair))] == [[1, *ids, 2] for ids in DOCUMENTS]
    assert pair.tokens.dtype == np.int32


def test_ten_million_documents_index_in_little_memory(tmp_path: Path) -> None:
    """31 million documents needed terabytes in Megatron's builder, which keeps every length in Python lists."""
    import subprocess
    import sys

    script = f"""
from pathlib import Path
import numpy as np
from meap_megatron.indexed.pair import length_blocks, one_sequence_per_document, write_index
n = 10_000_000
np.full(n, 3, dtype=np.int32).tofile({str(tmp_path / "l")!r})
with open({str(tmp_path / "x.idx")!r}, "wb") as stream:
    write_index(stream, dtype="uint16", num_sequences=n, num_document_indices=n + 1,
                lengths=lambda: length_blocks([Path({str(tmp_path / "l")!r})]),
                document_indices=lambda: one_sequence_per_document(n))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 250 * 1024  # KiB
    assert (tmp_path / "x.idx").stat().st_size == 34 + 20 * 10_000_000 + 8
