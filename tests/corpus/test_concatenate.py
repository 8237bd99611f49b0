"""Finished shards are joined beside the encoding; whatever happens there, nothing half-written gets a name."""

import hashlib
import threading
from pathlib import Path

import pytest

from meap_megatron.corpus.concatenate import Joining
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.text_shard import TextEncoder
from meap_megatron.errors import RunError
from tests.corpus.corpus_samples import config, names, write_jsonl


def test_files_are_joined_in_the_order_they_are_given(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in "cab"]
    for number, part in enumerate(parts):
        part.write_bytes(bytes([number]) * 5_000_000)  # more than one chunk
    joining = Joining(tmp_path / "joined.tmp")
    for part in parts:
        joining.add(part)
    assert joining.finish(tmp_path / "joined") == 15_000_000
    joined = (tmp_path / "joined").read_bytes()
    assert joined == b"".join(part.read_bytes() for part in parts)
    assert joining.digest.hexdigest() == hashlib.sha256(joined).hexdigest()
    joining.abandon()  # too late: it is finished
    assert names(tmp_path) == ["a", "b", "c", "joined"]


def test_an_error_in_the_thread_is_raised_and_leaves_no_file(tmp_path: Path) -> None:
    joining = Joining(tmp_path / "joined.tmp")
    joining.add(tmp_path / "gone")
    with pytest.raises(RunError, match=r"cannot write .*gone: No such file"):
        joining.finish(tmp_path / "joined")
    with pytest.raises(RunError, match="gone"):
        joining.add(tmp_path / "next")
    joining.abandon()
    assert names(tmp_path) == []
    assert "joining" not in {thread.name for thread in threading.enumerate()}


def test_a_shard_is_joined_before_the_next_one_is_encoded(
    tmp_path: Path, word_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    run, add = TextEncoder.run, Joining.add

    def noted_run(self, number, shard, report):  # type: ignore[no-untyped-def]
        events.append(f"encode {number}")
        return run(self, number, shard, report)

    def noted_add(self: Joining, source: Path) -> None:
        events.append(f"join {int(source.stem.removeprefix('part-'))}")
        add(self, source)

    monkeypatch.setattr(TextEncoder, "run", noted_run)
    monkeypatch.setattr(Joining, "add", noted_add)
    source = write_jsonl(tmp_path / "in.jsonl", ["a b c d " * 3] * 6)
    preprocess(config(source, tmp_path / "out", word_tokenizer, workers=1, shard_bytes=90))
    assert events == [f"{what} {number}" for number in range(len(events) // 2) for what in ("encode", "join")]
    assert len(events) >= 4
    assert "joining" not in {thread.name for thread in threading.enumerate()}
