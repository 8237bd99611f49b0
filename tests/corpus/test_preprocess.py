import gzip
import json
from pathlib import Path

import pytest

from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.shard import plan_shards
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix
from tests.corpus.corpus_samples import config, documents, names, sample_texts, write_jsonl
from tests.support.corpus import write_word_tokenizer


def test_a_document_is_bos_text_eos(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a b c", "d", "", "e a"])
    preprocess(config(source, tmp_path / "out", word_tokenizer))
    assert documents(tmp_path / "out") == [[1, 3, 4, 5, 2], [1, 6, 2], [1, 0, 3, 2]]
    assert names(tmp_path) == ["in.jsonl", "out.bin", "out.idx", "out.meap.json", "out.tokenizer", "words"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"add_bos": False}, [3, 4, 2]),
        ({"add_eos": False}, [1, 3, 4]),
        ({"add_bos": False, "add_eos": False}, [3, 4]),
        ({"bos_token": "c", "eos_token": "d"}, [5, 3, 4, 6]),
    ],
)
def test_bos_and_eos_are_a_choice_that_the_sidecar_records(
    tmp_path: Path, word_tokenizer: Path, options: dict, expected: list[int]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a b"])
    sidecar = preprocess(config(source, tmp_path / "out", word_tokenizer, **options))
    assert documents(tmp_path / "out") == [expected]
    assert (sidecar.add_bos, sidecar.add_eos) == (options.get("add_bos", True), options.get("add_eos", True))


def test_a_tokenizer_without_bos_gives_eos_only(tmp_path: Path, word_tokenizer: Path) -> None:
    (word_tokenizer / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "</s>"}')
    source = write_jsonl(tmp_path / "in.jsonl", ["a", "b"])
    sidecar = preprocess(config(source, tmp_path / "out", word_tokenizer))
    assert documents(tmp_path / "out") == [[3, 2], [4, 2]]
    assert not sidecar.add_bos


def test_a_tokenizer_without_eos_is_refused_unless_none_is_wanted(tmp_path: Path, word_tokenizer: Path) -> None:
    (word_tokenizer / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": null}')
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    with pytest.raises(UserError, match="--eos-token, or leave it out with --no-eos"):
        preprocess(config(source, tmp_path / "out", word_tokenizer))
    preprocess(config(source, tmp_path / "out", word_tokenizer, add_eos=False))
    assert documents(tmp_path / "out") == [[1, 3]]


@pytest.mark.parametrize("encoder", ["gigatoken", "tokenizers"])
def test_a_text_never_gives_a_special_id(tmp_path: Path, bpe_tokenizer: Path, encoder: str) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["x </s> y [MASK] <s> z"] * 3)
    preprocess(config(source, tmp_path / "out", bpe_tokenizer, encoder=encoder))
    for ids in documents(tmp_path / "out"):
        assert (ids[0], ids[-1]) == (0, 1)
        assert not {0, 1, 600} & set(ids[1:-1])


def test_a_text_that_can_only_be_a_special_id_is_a_bad_line(tmp_path: Path, word_tokenizer: Path) -> None:
    """A word-level model has no other way to write the word `</s>`: better no document than a false end."""
    source = write_jsonl(tmp_path / "in.jsonl", ["a", "b </s> c", "d"])
    with pytest.raises(UserError, match=r"in\.jsonl:2: the text tokenizes to the id of a special token.*--mask-token"):
        preprocess(config(source, tmp_path / "out", word_tokenizer))
    preprocess(config(source, tmp_path / "out", word_tokenizer, max_bad_lines=1))
    assert documents(tmp_path / "out") == [[1, 3, 2], [1, 6, 2]]


def test_a_text_that_begins_with_bos_is_warned_about_and_not_doubled(
    tmp_path: Path, bpe_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["plain", "<s>formatted", "<s>again"])
    preprocess(config(source, tmp_path / "out", bpe_tokenizer))
    assert all(ids[:2] != [0, 0] for ids in documents(tmp_path / "out"))
    warning = capsys.readouterr().err
    assert "2 documents begin with the characters '<s>'" in warning
    assert "in.jsonl:2" in warning


@pytest.mark.parametrize(("workers", "shard_bytes"), [(1, 300), (1, 5_000), (1, None), (2, 5_000), (3, 5_000)])
def test_neither_workers_nor_shard_size_change_a_byte(
    tmp_path: Path, bpe_tokenizer: Path, workers: int, shard_bytes: int | None
) -> None:
    texts = sample_texts(120)
    whole = write_jsonl(tmp_path / "whole.jsonl", texts)
    preprocess(config(whole, tmp_path / "reference", bpe_tokenizer, workers=1, shard_bytes=10**9))
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_jsonl(folder / "1.jsonl", texts[:50])
    (folder / "2.txt").write_text(texts[50])
    raw = write_jsonl(tmp_path / "rest.jsonl", texts[51:]).read_bytes()
    (folder / "3.jsonl.gz").write_bytes(gzip.compress(raw))
    preprocess(config(folder, tmp_path / "out", bpe_tokenizer, workers=workers, shard_bytes=shard_bytes))
    for suffix in (".bin", ".idx"):
        assert Path(f"{tmp_path}/out{suffix}").read_bytes() == Path(f"{tmp_path}/reference{suffix}").read_bytes()
    assert "out.parts" not in names(tmp_path)


def test_a_vocabulary_above_65500_is_written_as_int32(tmp_path: Path) -> None:
    for size, dtype in ((65_498, "uint16"), (65_499, "int32")):  # and [MASK] makes one more
        write_word_tokenizer(tmp_path, ["<unk>", *(f"w{index}" for index in range(1, size))])
        source = write_jsonl(tmp_path / "in.jsonl", [f"w5 w{size - 1}"])
        options = {"add_bos": False, "eos_token": "w1", "overwrite": True}
        sidecar = preprocess(config(source, tmp_path / "out", tmp_path / "tokenizer.json", **options))
        assert sidecar.dtype == dtype
        assert documents(tmp_path / "out") == [[5, size - 1, 1]]


def test_bad_lines_within_the_limit_are_skipped_and_listed(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"txt": "b"}\n\nnonsense\n{"text": "c"}\n{"text": ""}\n')
    with pytest.raises(UserError, match=r"found 2 invalid lines, limit is 1 (.|\n)*in\.jsonl:2: .*\n.*in\.jsonl:4: "):
        preprocess(config(source, tmp_path / "out", word_tokenizer, max_bad_lines=1))
    assert names(tmp_path) == ["in.jsonl", "words"]
    preprocess(config(source, tmp_path / "out", word_tokenizer, max_bad_lines=2))
    assert documents(tmp_path / "out") == [[1, 3, 2], [1, 5, 2]]
    said = capsys.readouterr().err
    assert (
        "2 invalid lines skipped" in said
        and "in.jsonl:4" in said
        and "empty (1): first" in said
        and "in.jsonl:6" in said
    )


def test_bad_lines_are_counted_over_all_shards_and_workers(tmp_path: Path, word_tokenizer: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\nbad\n' * 50)
    options = {"shard_bytes": 100, "workers": 2}
    with pytest.raises(UserError, match="limit is 49"):
        preprocess(config(source, tmp_path / "out", word_tokenizer, max_bad_lines=49, **options))
    preprocess(config(source, tmp_path / "out", word_tokenizer, max_bad_lines=50, resume=True, **options))
    assert documents(tmp_path / "out") == [[1, 3, 2]] * 50


def test_an_existing_dataset_is_replaced_only_on_request(tmp_path: Path, word_tokenizer: Path) -> None:
    first = write_jsonl(tmp_path / "1.jsonl", ["a"])
    second = write_jsonl(tmp_path / "2.jsonl", ["b b"])
    preprocess(config(first, tmp_path / "out", word_tokenizer))
    with pytest.raises(UserError, match="--overwrite"):
        preprocess(config(second, tmp_path / "out", word_tokenizer))
    assert documents(tmp_path / "out") == [[1, 3, 2]]
    preprocess(config(second, tmp_path / "out", word_tokenizer, overwrite=True))
    assert documents(tmp_path / "out") == [[1, 4, 4, 2]]
    check_prefix(tmp_path / "out")


def test_the_shards_of_an_array_cover_the_input_once(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a " * (i + 1) for i in range(30)])
    rows: list[list[int]] = []
    for index in range(4):
        preprocess(config(source, tmp_path / "out", word_tokenizer, shard=(index, 4), shard_bytes=64, workers=1))
        rows += documents(tmp_path / f"out.shard-{index}-of-4")
    assert rows == [[1, *[3] * (i + 1), 2] for i in range(30)]


def test_a_shard_without_input_is_an_empty_dataset_and_no_error(tmp_path: Path, word_tokenizer: Path) -> None:
    """A SLURM array of 8 over 2 files must not fail in 6 of its tasks."""
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    preprocess(config(source, tmp_path / "out", word_tokenizer, shard=(0, 8)))
    assert check_prefix(tmp_path / "out.shard-0-of-8").num_documents == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (3, 2)}, "--shard 3/2"),
        ({"workers": 0}, "--workers is 0"),
        ({"shard_bytes": 0}, "--shard-size is 0"),
        ({"max_bad_lines": -1}, "--max-bad-lines is -1"),
        ({"encoder": "fast"}, "--encoder is 'fast'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PreprocessConfig(inputs=["x"], output="o", tokenizer="t", **options)


def test_pieces_are_grouped_into_shards_by_size_alone(tmp_path: Path) -> None:
    from meap_megatron.corpus.inputs import find_inputs

    for name, size in (("a.txt", 30), ("b.txt", 30), ("c.jsonl", 250), ("d.txt", 10)):
        (tmp_path / name).write_text("x" * size)
    shards = plan_shards(find_inputs([str(tmp_path)]).files, 100)
    cut = [[(Path(chunk.file.path).name, chunk.start, chunk.stop) for chunk in shard] for shard in shards]
    assert cut == [
        [("a.txt", 0, 30), ("b.txt", 0, 30), ("c.jsonl", 0, 100)],
        [("c.jsonl", 100, 200)],
        [("c.jsonl", 200, 250), ("d.txt", 0, 10)],
    ]


def test_progress_says_documents_megabytes_and_time_left() -> None:
    import io

    from meap_megatron.corpus.progress import Progress
    from meap_megatron.corpus.shard import Advance

    stream = io.StringIO()
    progress = Progress(1000, stream=stream)
    progress.printed -= 11  # a line every 10 seconds where there is no terminal
    progress.advance(Advance(input_bytes=250, text_bytes=200, num_documents=5))
    progress.finish()
    first, last = stream.getvalue().splitlines()
    for line in (first, last):
        assert "25.0%" in line and "5 documents" in line and "docs/s" in line and "MB/s" in line and "ETA 0:" in line


def test_workers_default_to_what_slurm_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    from meap_megatron.corpus.workers import available_cpus

    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4096")
    assert 1 <= available_cpus() < 4096


def test_memory_does_not_grow_with_the_input(tmp_path: Path, bpe_tokenizer: Path) -> None:
    import subprocess
    import sys

    source = tmp_path / "in.jsonl"
    script = f"""
from pathlib import Path
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.settings import PreprocessConfig
preprocess(PreprocessConfig(inputs=[{str(source)!r}], output={str(tmp_path / "out")!r},
           tokenizer={str(bpe_tokenizer)!r}, workers=1, overwrite=True))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    peaks = []
    for repetitions in (2_000, 60_000):
        source.write_text((json.dumps({"text": "a b c d " * 100}) + "\n") * repetitions)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 20 * 1024, f"{peaks} KiB for 1.6 MB and 48 MB of text"
