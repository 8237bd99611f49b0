"""`meap show` prints the sample that training reads: built by Megatron's builder, masked by MEAPGPTDataset."""

import re
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.indexed.sidecar import check_prefix
from tests.corpus.conftest import word_tokenizer  # noqa: F401 (a fixture)
from tests.corpus.corpus_samples import documents, names, write_jsonl

LENGTH = 16
ROW = re.compile(r" *(\d+)  (.{22})  +(\d+)  +(\d+) (\S+) +(masked|\.) +([01])")


@pytest.fixture
def prefix(tmp_path: Path, word_tokenizer: Path) -> Path:  # noqa: F811
    source = write_jsonl(tmp_path / "in.jsonl", ["a b c d"[: 1 + 2 * (i % 4)] for i in range(60)])
    out = tmp_path / "out"
    assert main(["preprocess", "text", str(source), "--tokenizer", str(word_tokenizer), "-o", str(out)]) == 0
    return out


def show(prefix: Path, *arguments: str) -> int:
    return main(["show", str(prefix), "--seq-length", str(LENGTH), "--split", "80,20,0", *arguments])


def test_the_summary_says_what_the_sidecar_says(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["show", f"{prefix}.idx"]) == 0
    said = capsys.readouterr().out
    assert "60 documents" in said and "a document is BOS + text + EOS" in said
    assert "BOS 1, EOS 2, padding none, [MASK] 7" in said


def test_options_of_samples_ask_for_the_number_of_one(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(prefix, "--mask-ratio", "0.3") == 2
    said = capsys.readouterr().err
    assert "--seq-length, --split, --mask-ratio: without --index a summary is printed" in said
    assert "fix: add --index 0" in said


@pytest.mark.parametrize("of", ["train", "valid"])
def test_a_sample_is_the_one_that_training_reads(prefix: Path, capsys: pytest.CaptureFixture[str], of: str) -> None:
    from meap_megatron.datasets.mask_stage import dataset_key
    from meap_megatron.masking import mask_positions

    before = names(prefix.parent)
    capsys.readouterr()
    assert show(prefix, "--index", "2", "--mask-ratio", "0.25", "--seed", "5", "--of", of) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said, "colour only on a terminal"
    found = [ROW.fullmatch(line) for line in said.splitlines()]
    lines = [match for match in found if match]
    assert [int(line[1]) for line in lines] == list(range(LENGTH))
    ids, labels = [int(line[3]) for line in lines], [int(line[4]) for line in lines]
    masked = [position for position, line in enumerate(lines) if line[6] == "masked"]
    key = dataset_key(check_prefix(prefix).content_hash, of)
    expected = mask_positions(seed=5, dataset_key=key, sample_index=2, length=LENGTH, ratio=0.25).tolist()
    assert masked == (expected if of == "train" else [])
    assert all((ids[i + 1] == labels[i]) != (i + 1 in masked) for i in range(LENGTH - 1))
    assert all(ids[i] == 7 and lines[i][2].startswith("[MASK] (") for i in masked)
    # The documents that lie wholly inside the sample, from BOS to EOS, are documents of the dataset.
    inside = re.findall(r"\b1 [3-6 ]+ 2\b", " ".join(map(str, labels)))
    assert len(inside) >= 2
    assert set(inside) <= {" ".join(map(str, row)) for row in documents(prefix)}
    assert names(prefix.parent) == before, "showing leaves no cache behind"


def test_drawn_tokens_are_shown_where_they_were_drawn(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--index", "2", "--mask-ratio", "0.5", "--rows", "0"]
    capsys.readouterr()
    assert show(prefix, *options) == show(prefix, *options, "--corruption", "random") == 0
    found = [match for line in capsys.readouterr().out.splitlines() if (match := ROW.fullmatch(line))]
    masked, drawn = found[:LENGTH], found[LENGTH:]
    assert [line[6] for line in masked] == [line[6] for line in drawn], "the same positions"
    assert {int(line[3]) for line in drawn} <= {3, 4, 5, 6} | {int(line[3]) for line in drawn if line[6] == "."}
    assert all(line[2].strip().endswith(")") for line in drawn if line[6] == "masked")


def test_colour_can_be_asked_for_and_rows_chosen(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert show(prefix, "--index", "0", "--color", "always", "--start", "4", "--rows", "3") == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"^\x1b\[2m +\d+", said, re.M)) == 3
    assert "positions 4 to 6 of 16" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "100000"], "--index 100000: train of 80,20,0 has"),
        (["--index", "0", "--of", "test"], "--split-name test: no document of "),
        (["--index", "0", "--of", "train", "--split", "0,0,0"], "no document of "),
        (["--index", "-1"], "--index is -1"),
        (["--index", "0", "--strategy", "all"], "strategy is 'all'"),
        (["--index", "0", "--strategy", "official51"], "global_batch_size"),
        (["--index", "0", "--sft-layout", "concat", "--sft-no-pack"], "--sft-layout, --sft-no-pack: "),
        (["--index", "0", "--seq-length", "100000"], "100000 tokens"),
    ],
)
def test_a_sample_that_does_not_exist_is_refused(
    prefix: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert show(prefix, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_ratio_above_one_is_refused_when_it_is_read(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(prefix, "--index", "0", "--mask-ratio", "1.5") == 2
    assert "argument --mask-ratio: ratio is 1.5" in capsys.readouterr().err


def test_a_truncated_dataset_is_refused(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = Path(f"{prefix}.bin").read_bytes()
    Path(f"{prefix}.bin").write_bytes(raw[:-1])
    assert show(prefix, "--index", "0") == 2
    assert "truncated" in capsys.readouterr().err
