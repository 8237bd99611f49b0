"""A Megatron command line with MEAP's flag added does all that it says, or is refused by the flag that it cannot do."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.corpus.verify import adopt
from meap_megatron.errors import UserError
from meap_megatron.launch.named_settings import of_command_line
from meap_megatron.training.pretrain import settled

MODEL = (
    "--num-layers 1 --hidden-size 16 --num-attention-heads 1 --seq-length 8 --max-position-embeddings 8 --train-iters 1 "
    "--micro-batch-size 1 --global-batch-size 1 --lr 1e-3 --eval-iters 0 --meap-mask-ratio 0.15"
).split()


def words_folder(folder: Path, size: int, *, swapped: bool = False) -> Path:
    """A tokenizer of `size` words with EOS 2, and with two words changed."""
    from tokenizers import Tokenizer, models

    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(3, size))]
    if swapped:
        words[3], words[4] = words[4], words[3]
    folder.mkdir()
    vocabulary = {word: index for index, word in enumerate(words)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    names = {"bos_token": None, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data of Megatron's builder for a tokenizer of 128 words, adopted."""
    from tests.corpus.test_verify import megatron_pair

    megatron_pair(tmp_path / "data", [[3, 4, 5, 2]] * 40)
    adopt(tmp_path / "data", tokenizer=str(words_folder(tmp_path / "t", 128)))
    return tmp_path / "data"


def run(*words: str | Path) -> list[str]:
    return settled([*MODEL, *map(str, words)], rank="0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--fim-data --fim-rate 0.5", "--fim-data is refused: fill-in-the-middle"),
        ("--sft", "--sft is refused: .*meap preprocess sft"),
        ("--per-dataset-sequences-path x.json", "--per-dataset-sequences-path=x.json is refused"),
        ("--object-storage-cache-path x", "--object-storage-cache-path=x is refused"),
        ("--allow-ambiguous-pad-tokens", "--allow-ambiguous-pad-tokens is refused: padding is"),
        ("--hybrid-context-parallel", "--hybrid-context-parallel is refused"),
        ("--logits-load-dir x", "--logits-load-dir=x is refused: distillation"),
        ("--logits-save-dir x", "--logits-save-dir=x is refused"),
        ("--perform-rl-step", "--perform-rl-step is refused: reinforcement learning"),
        ("--data-cache-path s3://bucket/cache", "--data-cache-path s3://bucket/cache: .*copy or mount"),
        ("--dataloader-fast-cache-load", "--dataloader-fast-cache-load needs one blend per split, and --data-path"),
        ("--data-path s3://bucket/c4", "--data-path s3://bucket/c4: datasets are read from a file system"),
        ("--data-path 0.5 msc://a/b 0.5 data", "--data-path msc://a/b: datasets are read from a file system"),
        ("--bf16 --fp16", "--bf16 and --fp16 are both given: one precision"),
        ("--lr-warmup-iters 3", "--lr-warmup-iters=3 must be below --train-iters=1"),
        ("--overlap-param-gather", "--overlap-param-gather needs --use-distributed-optimizer"),
        (
            "--tokenizer-type HuggingFaceTokenizer --tokenizer-model no/where",
            "no/where is not a file or a folder, nor in",
        ),
        (
            "--tokenizer-type Llama2Tokenizer --tokenizer-model gone",
            "--tokenizer-model gone is not a file or a folder; leave",
        ),
        (
            "--tokenizer-type GPT2BPETokenizer --vocab-file gone.json",
            "--vocab-file gone.json is not a file; leave the",
        ),
    ],
)
def test_what_the_datasets_do_not_read_is_refused_by_its_flag(data: Path, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run("--data-path", data, "--split", "100,0,0", *words.split())


SOURCES = ["--mock-data", "--data-path=a", "--data-args-path=a", "--train-data-path=a", "--per-split-data-args-path=a"]


@pytest.mark.parametrize(("first", "second"), itertools.combinations(SOURCES, 2))
def test_data_has_one_source(first: str, second: str) -> None:
    with pytest.raises(UserError, match=f"{first} and {second} are both given: one source"):
        run(first, second)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--train-data-path a --split 1,0,0",
            "--train-data-path=a and --split=1,0,0 are both given: each split has data",
        ),
        (
            "--test-data-path a --split 1,0,0",
            "--test-data-path=a and --split=1,0,0 are both given: each split has data",
        ),
        (
            "--per-split-data-args-path a --split 1,0,0",
            "--per-split-data-args-path=a and --split=1,0,0 are both given",
        ),
        ("--valid-data-path a", "--valid-data-path=a names no training data; give --train-data-path too"),
        ("--data-args-path a", "--data-args-path=a needs split, the shares"),
    ],
)
def test_each_source_of_data_has_its_own_way_of_dividing_it(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*words.split())


def test_data_named_in_files_gives_the_vocabulary_too(data: Path, tmp_path: Path) -> None:
    (tmp_path / "blend").write_text(f"0.3 {data}\n0.7 {data}\n")
    flags = run("--data-args-path", tmp_path / "blend", "--split", "100,0,0")
    assert of_command_line(flags).get("vocab_size") == "129"
    parts = {"train": ["1.0", str(data)], "valid": str(data), "test": None}
    (tmp_path / "splits").write_text(json.dumps(parts))
    assert of_command_line(run("--per-split-data-args-path", tmp_path / "splits")).get("vocab_size") == "129"


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--data-args-path", None, "blend cannot be read: No such file"),
        ("--per-split-data-args-path", '{"train": "a"}', "must be a JSON object with the keys train, valid and test"),
        ("--per-split-data-args-path", "0.5 a", "must be a JSON object"),
    ],
)
def test_a_file_of_data_that_cannot_be_read_is_named(
    tmp_path: Path, flag: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "blend").write_text(content)
    with pytest.raises(UserError, match=message):
        run(flag, tmp_path / "blend", *(["--split=1,0,0"] if flag == "--data-args-path" else []))


def test_the_tokenizer_of_the_data_gets_a_row_for_the_mask(data: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    named = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tmp_path / "t"]
    flags = run("--data-path", data, "--split", "100,0,0", *named)
    assert of_command_line(flags).get("padded_vocab_size") == "256"
    assert of_command_line(flags).get("tokenizer_type") == "HuggingFaceTokenizer"
    assert (
        "has 128 ids and no [MASK], which is id 128 of the data; the embedding gets 256 rows"
        in capsys.readouterr().out
    )
    # With room for it in Megatron's padding, the model stays as it is.
    flags = run("--data-path", data, "--split", "100,0,0", *named, "--make-vocab-size-divisible-by", "130")
    assert of_command_line(flags).get("padded_vocab_size") is None
    assert "[MASK]" not in capsys.readouterr().out
    # The tokenizer that was saved beside the data is the same one.
    flags = run("--data-path", data, "--split", "100,0,0", *named[:-1], f"{data}.tokenizer")
    assert of_command_line(flags).get("padded_vocab_size") == "256"


@pytest.mark.parametrize("kind", ["HuggingFaceTokenizer", "GPT2BPETokenizer"])
def test_another_tokenizer_is_refused(data: Path, tmp_path: Path, kind: str) -> None:
    other = words_folder(tmp_path / "other", 128, swapped=True)
    if kind == "HuggingFaceTokenizer":
        named = ["--tokenizer-model", other]
    else:
        vocabulary = json.loads((other / "tokenizer.json").read_text())["model"]["vocab"]
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        named = ["--vocab-file", tmp_path / "vocab.json"]
    with pytest.raises(UserError, match="is not the tokenizer that made .*'w4' is 3 in it, 4 in the data"):
        run("--data-path", data, "--split", "100,0,0", "--tokenizer-type", kind, *named)


def test_under_an_ascii_locale_paths_with_accents_are_found_and_named(data: Path, tmp_path: Path) -> None:
    accented = tmp_path / "d\u00e9j\u00e0"
    accented.mkdir()
    for path in (*tmp_path.glob("data.*"),):
        path.rename(accented / path.name)
    environ = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def said_of(*words: str) -> str:
        command = [sys.executable, "-m", "meap_megatron.training.pretrain", *MODEL, "--split", "100,0,0", *words]
        done = subprocess.run(command, capture_output=True, env=environ, timeout=120, check=False)
        assert done.returncode == 2 and b"Traceback" not in done.stderr
        return done.stderr.decode("ascii")

    assert "nothing.meap.json does not exist" in said_of("--data-path", str(accented / "nothing"))
    # The data is found and read: what is refused is looked at after it.
    assert "holds no checkpoint" in said_of("--data-path", str(accented / "data"), "--load", str(accented))
