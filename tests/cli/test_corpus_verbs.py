"""The corpus verbs through the command line: exit status, message, and nothing half-written."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.corpus.conftest import word_tokenizer  # noqa: F401 (a fixture)
from tests.corpus.corpus_samples import names, write_jsonl


@pytest.fixture
def folder(tmp_path: Path, word_tokenizer: Path) -> Path:  # noqa: F811
    write_jsonl(tmp_path / "in.jsonl", ["a b", "c"])
    return tmp_path


def preprocess(folder: Path, *arguments: str, inputs: str = "in.jsonl", tokenizer: str = "words") -> int:
    options = ["--tokenizer", str(folder / tokenizer), "--output", str(folder / "out"), *arguments]
    return main(["preprocess", "text", str(folder / inputs), *options])


def test_from_text_to_a_merged_and_verified_dataset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("0/2", "1/2"):
        assert preprocess(folder, "--shard", shard, "--shard-size", "10") == 0
    assert main(["merge", str(folder / "out"), *map(str, folder.glob("out.shard-*.idx"))]) == 0
    capsys.readouterr()
    assert main(["verify", f"{folder}/out.bin", f"{folder}/out.shard-1-of-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}/out"
    assert "  ok      content hash: equals the sidecar's" in lines
    assert not [line for line in lines if "FAILED" in line]


def test_the_wrapper_in_tools_is_the_same_command(folder: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
    arguments = [str(folder / "in.jsonl"), "-t", str(folder / "words"), "-o", str(folder / "out")]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "2 documents, 7 tokens" in done.stdout


def parquet_without_text(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), path)


def damaged_zst(path: Path) -> None:
    import zstandard

    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "a"}\n' * 999)[:-9])


WRONG_INPUTS = {
    "no input matches": ("*.txt", lambda path: None, [], "no input matches"),
    "missing file": ("gone.jsonl", lambda path: None, [], "no input matches"),
    "empty folder": ("f", lambda path: path.mkdir(), [], "contains no file that can be read"),
    "unknown suffix": ("x.csv", lambda path: path.write_text("a"), [], "unknown suffix"),
    "broken gzip": ("x.jsonl.gz", lambda path: path.write_bytes(gzip.compress(b"a" * 99)[:-9]), [], "cannot be read"),
    "not gzip": ("x.jsonl.gz", lambda path: path.write_bytes(b"text"), [], "cannot be read"),
    "broken zst": ("x.jsonl.zst", damaged_zst, [], "ends inside a zstd frame"),
    "broken parquet": ("x.parquet", lambda path: path.write_bytes(b"PAR1"), [], "cannot be read"),
    "parquet without the column": ("x.parquet", parquet_without_text, [], "no column 'text'"),
    "missing key": ("in.jsonl", lambda path: None, ["--json-key", "body"], "in.jsonl:1: no key 'body'"),
    "malformed line": ("x.jsonl", lambda path: path.write_text('{"text": "a"}\n{"te'), [], "x.jsonl:2: invalid JSON"),
    "invalid UTF-8": ("x.txt", lambda path: path.write_bytes(b"a\nb\xff"), [], "x.txt:2: invalid UTF-8"),
    "only empty documents": (
        "x.jsonl",
        lambda path: path.write_text('{"text": ""}\n'),
        [],
        "no document of the inputs can be used",
    ),
    "shard of no form": ("in.jsonl", lambda path: None, ["--shard", "one"], "expected I/N"),
    "size of no form": ("in.jsonl", lambda path: None, ["--shard-size", "big"], "--shard-size is 'big'"),
    "encoder that does not fit": ("in.jsonl", lambda path: None, ["--encoder", "gigatoken"], "cannot be used with"),
    "eos that is no token": ("in.jsonl", lambda path: None, ["--eos-token", "[END]"], "'[END]' is not in the voc"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_a_wrong_input_is_refused_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    inputs, make, arguments, message = WRONG_INPUTS[name]
    make(folder / inputs)
    before = names(folder)
    assert preprocess(folder, *arguments, inputs=inputs) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert names(folder) == before


@pytest.mark.parametrize(
    ("tokenizer", "make", "message"),
    [
        ("gone", lambda path: None, "does not exist"),
        ("empty", lambda path: path.mkdir(), "holds no tokenizer.json"),
        ("t.json", lambda path: path.write_text('{"a": 1}'), "is not a tokenizer.json"),
        ("t.model", lambda path: path.write_bytes(b"\xff\xff"), "is not a SentencePiece model"),
    ],
)
def test_a_wrong_tokenizer_is_refused_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], tokenizer: str, make, message: str
) -> None:  # type: ignore[no-untyped-def]
    make(folder / tokenizer)
    before = names(folder)
    assert preprocess(folder, tokenizer=tokenizer) == 2
    assert message in capsys.readouterr().err
    assert names(folder) == before


def test_verify_names_what_is_wrong_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess(folder) == 0
    path = folder / "out.bin"
    path.write_bytes(path.read_bytes()[:2] + b"\xff\xff" + path.read_bytes()[4:])
    capsys.readouterr()
    assert main(["verify", str(folder / "out")]) == 2
    said = capsys.readouterr()
    assert "FAILED  ids: 1 ids outside 0..7" in said.out
    assert "failed" in said.err


def test_verify_writes_the_sidecar_of_foreign_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess(folder) == 0
    expected = json.loads((folder / "out.meap.json").read_text())
    (folder / "out.meap.json").unlink()
    assert main(["verify", str(folder / "out"), "--write-sidecar"]) == 2
    assert "give it with --tokenizer T" in capsys.readouterr().err
    assert main(["verify", str(folder / "out"), "--write-sidecar", "--tokenizer", str(folder / "words")]) == 0
    assert json.loads((folder / "out.meap.json").read_text()) == {
        **{name: value for name, value in expected.items() if name != "plan"},
        "libraries": {},
    }


@pytest.mark.parametrize("output", ["data/", "data", "new/", ".", "new/.", ""])
def test_a_folder_as_the_output_is_refused_and_nothing_hidden_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    (folder / "data").mkdir()
    monkeypatch.chdir(folder)
    assert main(["preprocess", "text", "in.jsonl", "-t", "words", "-o", "one"]) == 0
    before = names(folder)
    for command in (
        ["preprocess", "text", "in.jsonl", "-t", "words", "-o", output],
        ["preprocess", "text", "in.jsonl", "-t", "words", "-o", output, "--shard", "0/1", "--overwrite"],
        ["preprocess", "sft", "in.jsonl", "-t", "words", "-o", output],
        ["merge", output, "one", "--overwrite"],
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert f"the output {output!r} is a folder; it must be a prefix" in capsys.readouterr().err
    assert names(folder) == before and names(folder / "data") == []


@pytest.mark.parametrize("verb", [["preprocess", "text"], ["preprocess", "sft"], ["verify"], ["merge"], ["show"]])
def test_the_help_of_every_verb_is_printed_without_heavy_imports(verb: list[str]) -> None:
    script = (
        "import sys; from meap_megatron.cli.main import main\n"
        f"try: main({verb!r} + ['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'megatron', 'gigatoken'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: meap" in done.stdout
