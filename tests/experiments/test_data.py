"""The data of the smoke plan, made from this interpreter's own library through `meap preprocess text`."""

from pathlib import Path

import numpy as np
import pytest

from experiments.retrieval_small import data
from experiments.retrieval_small.plan import SMOKE
from experiments.retrieval_small.rows import Vocabulary
from experiments.retrieval_small.score import encode
from meap_megatron.errors import RunError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    assert data.prepare(SMOKE, folder) == folder / "rows"
    return folder


def test_every_document_of_the_index_is_one_row(folder: Path) -> None:
    ids = np.fromfile(folder / "rows.bin", dtype=np.uint16).reshape(-1, SMOKE.seq_length)
    assert len(ids) == data.num_train_rows(SMOKE)
    bos, eos = ids[0, 0], ids[0, -1]
    assert bos != eos
    assert (ids[:, 0] == bos).all() and (ids[:, -1] == eos).all()
    assert (ids == bos).sum() == (ids == eos).sum() == len(ids)


def test_test_rows_are_encoded_as_training_rows_and_differ_between_the_two_parts(folder: Path) -> None:
    trial, main = (data.read_test_rows(folder, stream) for stream in SMOKE.streams)
    assert [len(row.pairs) for row in main] == [1] * 4 + [2] * 8
    assert not {row.text for row in trial} & {row.text for row in main}
    trained = np.fromfile(folder / "rows.bin", dtype=np.uint16).reshape(-1, SMOKE.seq_length)
    encoded = encode(main, folder / "rows.tokenizer", length=SMOKE.seq_length)
    assert encoded.shape == (12, SMOKE.seq_length)
    assert (encoded[:, [0, -1]] == trained[0, [0, -1]]).all()
    asked_first = encoded[:, SMOKE.seq_length - 1 - 3]
    assert set(asked_first) == set(trained[:, SMOKE.seq_length - 1 - 3])  # the mark of the last question


def test_rows_of_a_probe_are_longer_and_have_facts_that_nothing_asks_for(folder: Path) -> None:
    (probe,) = SMOKE.probes
    rows = data.read_test_rows(folder, probe.name)
    assert encode(rows, folder / "rows.tokenizer", length=probe.length).shape == (SMOKE.test_rows, 96)
    for row in rows:
        assert len(row.pairs) == 2 and row.text.count(" ! ") == 6 and row.text.count(" ? ") == 4
        assert all(f" ! {key} {value}" in row.text for key, value in row.pairs)


def test_data_that_is_there_is_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "documents", lambda *args, **rest: pytest.fail("the library was read again"))
    assert data.prepare(SMOKE, folder) == folder / "rows"


def test_rows_of_another_length_are_refused(folder: Path) -> None:
    with pytest.raises(RunError, match="63 per row were meant"):
        data.check_rows(folder / "rows", length=63)


def test_a_tokenizer_that_splits_a_key_is_refused() -> None:
    words = Vocabulary(keys=("bado",), values=("kimu",))
    with pytest.raises(RunError, match=r"splits kimu \(1 words\)"):
        data.check_single_tokens(words, lambda word: 2 if word == "kimu" else 1)
