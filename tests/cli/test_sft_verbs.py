"""`meap preprocess sft` through the command line: exit status, message, and nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main
from tests.corpus.corpus_samples import names
from tests.corpus.sft.conftest import chat_words  # noqa: F401 (a fixture)
from tests.corpus.sft.sft_samples import alpaca, messages, rows, sharegpt
from tests.support.conversations import write_rows


@pytest.fixture
def folder(tmp_path: Path, chat_words: Path) -> Path:  # noqa: F811
    write_rows(tmp_path / "in.jsonl", [alpaca("q", "a b"), alpaca("q", "c")])
    return tmp_path


def preprocess(folder: Path, *arguments: str, inputs: str = "in.jsonl", tokenizer: str = "words") -> int:
    options = ["--tokenizer", str(folder / tokenizer), "--output", str(folder / "out"), *arguments]
    return main(["preprocess", "sft", str(folder / inputs), *options])


def test_from_conversations_to_a_merged_and_verified_dataset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("0/2", "1/2"):
        assert preprocess(folder, "--system", "be", "--shard", shard, "--shard-size", "10") == 0
    assert main(["merge", str(folder / "out"), *map(str, folder.glob("out.shard-*"))]) == 0
    said = capsys.readouterr()
    assert "out.shard-0-of-2: 1 record, 17 tokens (uint16), 17.6% of them trained; mask token" in said.out
    assert said.err.count("1 record read, 1 kept, 0 dropped") == 2 and " read, " not in said.out
    assert main(["verify", f"{folder}/out"]) == 0
    assert "FAILED" not in capsys.readouterr().out
    assert [roles[13:] for _, roles in rows(folder / "out")] == [[0, 1, 1, 2], [0, 1, 2]]


def test_the_wrapper_in_tools_is_the_same_command(folder: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "preprocess_sft.py"
    arguments = [str(folder / "in.jsonl"), "-t", str(folder / "words"), "-o", str(folder / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "2 records read, 2 kept" in done.stderr


def test_tokens_that_the_tokenizer_lacks_are_named_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    definition = json.loads((folder / "words" / "tokenizer.json").read_text())
    definition["added_tokens"] = [token for token in definition["added_tokens"] if "header" not in token["content"]]
    (folder / "words" / "tokenizer.json").write_text(json.dumps(definition))
    assert preprocess(folder, "--template", "llama3") == 0
    error = capsys.readouterr().err
    assert error.count("has no token <|start_header_id|>, <|end_header_id|> of the template 'llama3'") == 1


def lines(*data: Any) -> Any:
    return lambda path: write_rows(path, list(data))


def text(content: str) -> Any:
    return lambda path: path.write_text(content)


def parquet(data: dict[str, list[Any]]) -> Any:
    def write(path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(data), path)

    return write


def no_eos(path: Path) -> None:
    config = path.parent / "words" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": None}))
    write_rows(path, [alpaca("q", "a")])


ROW = alpaca("q", "a")
ANSWER = {"role": "assistant", "content": "a"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
TURN = [{"role": "user", "content": "q"}]
WRONG_INPUTS = {
    "no input matches": ("gone.json", lambda path: None, [], "no input matches"),
    "plain text": ("x.txt", text("a"), [], "is plain text"),
    "unknown keys": (
        "x.jsonl",
        lines({"prompt": "q"}),
        [],
        "x.jsonl:1: the record has the keys ['prompt'], of no known",
    ),
    "first row is no object": ("x.jsonl", lines(["q", "a"]), [], "x.jsonl:1: the line is a string"),
    "row of another format": ("x.jsonl", lines(ROW, sharegpt("q", "a")), ["--format", "alpaca"], "x.jsonl:2: no key"),
    "missing output": ("x.jsonl", lines(ROW, {"instruction": "q"}), [], "x.jsonl:2: no key 'output'"),
    "malformed line": ("x.jsonl", text(json.dumps(ROW) + '\n{"in'), [], "x.jsonl:2: invalid JSON"),
    "broken array": ("x.json", text('[{"instruction": "q"},\n {"in'), [], "x.json:2: invalid JSON array"),
    "array without end": ("x.json", text(json.dumps([ROW])[:-1]), [], "x.json:1: invalid JSON array: expected"),
    "text behind the array": ("x.json", text(json.dumps([ROW]) + " []"), [], "text after the closing bracket"),
    "broken object over lines": ("x.json", text(json.dumps(ROW, indent=1)[:-1]), [], "x.json:1: invalid JSON"),
    "empty file": ("x.json", text(""), [], "contain no conversation with an answer"),
    "empty array": ("x.json", text(" [ ] "), [], "contain no conversation with an answer"),
    "no answer": ("x.jsonl", lines({"messages": TURN}), [], "without an answer to train (1): first"),
    "functions": (
        "x.jsonl",
        lines({"messages": [*TURN, ANSWER], "tools": [{"name": "f"}]}, {"messages": [*TURN, CALLING]}),
        [],
        "with functions, for which the template 'llama3' has no place; --template tokenizer may have one (2): first",
    ),
    "unused key": ("x.jsonl", lines({**ROW, "source": "s"}), ["--strict"], "source (1): first"),
    "rows that strict drops": ("x.jsonl", lines(ROW, {"messages": TURN}), ["--strict"], "answer to train (1): first"),
    "map of no form": (
        "in.jsonl",
        lambda path: None,
        ["--columns", "question"],
        "--columns is 'question', expected WHAT",
    ),
    "map twice": ("in.jsonl", lambda path: None, ["--columns", "question=a,question=b"], "expected WHAT=KEY"),
    "parquet of text": ("x.parquet", parquet({"text": ["a"]}), [], "has the columns ['text'], of which none is known"),
    "null in parquet": (
        "x.parquet",
        parquet({"instruction": ["q", None], "output": ["a", "b"]}),
        [],
        "x.parquet: row 2",
    ),
    "special token's word": ("x.jsonl", lines(alpaca("q", "a </s> b")), [], "tokenizes to the id of a special token"),
    "only over-long rows": (
        "in.jsonl",
        lambda path: None,
        ["--max-length", "4"],
        "no record of the inputs can be used",
    ),
    "forced format": ("in.jsonl", lambda path: None, ["--format", "messages"], "in.jsonl:1: no key 'messages'"),
    "unknown format": ("in.jsonl", lambda path: None, ["--format", "xml"], "--format is 'xml', it is one of alpaca,"),
    "unknown template": ("in.jsonl", lambda path: None, ["--template", "llama2"], "--template is 'llama2'"),
    "unknown prompt": ("in.jsonl", lambda path: None, ["--alpaca-prompt", "x"], "--alpaca-prompt is 'x'"),
    "unknown multi-turn": ("in.jsonl", lambda path: None, ["--multi-turn", "x"], "--multi-turn is 'x'"),
    "unknown over-long": ("in.jsonl", lambda path: None, ["--over-long", "x"], "--over-long is 'x'"),
    "too short a length": ("in.jsonl", lambda path: None, ["--max-length", "1"], "--max-length is 1"),
    "negative words": ("in.jsonl", lambda path: None, ["--min-answer-words", "-1"], "--min-answer-words is -1"),
    "no chat template": ("in.jsonl", lambda path: None, ["--template", "tokenizer"], "has no chat template"),
    "no EOS": ("x.jsonl", no_eos, [], "has no EOS token, which closes an answer in the template 'llama3'"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_a_wrong_input_is_refused_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    inputs, make, arguments, message = WRONG_INPUTS[name]
    make(folder / inputs)
    before = names(folder)
    assert preprocess(folder, "--workers", "1", *arguments, inputs=inputs) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert names(folder) == before


def test_bad_rows_are_skipped_and_counted_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(folder / "x.jsonl", [{"conversations": "q"}, sharegpt("q", "a"), {"a": 1}, sharegpt("q")])
    assert preprocess(folder, "--max-bad-lines", "2", inputs="x.jsonl") == 0
    said = capsys.readouterr()
    assert "4 records read, 1 kept, 3 dropped:" in said.err and "invalid (2): listed above" in said.err
    assert "x.jsonl:1: 'conversations' is a text that is not JSON" in said.err
    assert "x.jsonl:3: the record has the keys ['a'], of no known format" in said.err
    assert f"  without an answer to train (1): first {folder}/x.jsonl:4" in said.err


def test_rows_of_messages_are_detected_per_file(folder: Path) -> None:
    write_rows(folder / "a.jsonl", [messages("q", "a")])
    write_rows(folder / "b.jsonl", [sharegpt("q", "a")])
    assert preprocess(folder, inputs="[ab].jsonl") == 0
    first, second = rows(folder / "out")
    assert first == second


def test_show_prints_the_roles_of_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess(folder, "--system", "be") == 0
    capsys.readouterr()
    assert main(["show", str(folder / "out"), "--index", "0", "--start", "13"]) == 0
    said = capsys.readouterr().out.splitlines()
    what = "the stored conversation, before packing and masking (--seq-length N shows a row of training)"
    assert said[0] == f"{folder / 'out'}: row 0 of 2, {what}"
    lines = [line.split() for line in said]
    assert lines[3] == ["position", "token", "id", "role", "trained"]
    assert lines[4:] == [
        ["13", "<|end_header_id|>", "4", "prompt", "."],
        ["14", "a", "14", "answer", "trained"],
        ["15", "b", "15", "answer", "trained"],
        ["16", "</s>", "2", "end", "trained"],
        [],
        ["positions", "13", "to", "16", "of", "17;", "--rows", "0", "prints", "all"],
    ]
    assert main(["show", str(folder / "out"), "--index", "2"]) == 2
    assert "has 2 rows" in capsys.readouterr().err


def test_show_prints_a_row_as_training_reads_it_from_its_first_masked_token_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder / "a.jsonl", [alpaca("q", "a b c a b c")])
    assert preprocess(folder, "--system", "be", inputs="a.jsonl") == 0
    capsys.readouterr()
    row = ["show", str(folder / "out"), "--index", "0", "--seq-length", "48", "--rows", "0", "--sft-min-answer", "5"]
    assert main([*row, "--mask-ratio", "0.5", "--seed", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{folder / 'out'}: sample 0 of 1 in train (100,0,0), seed 3"
    assert said[1] == "40 positions and 8 of padding, 3 masked (7.5%), loss on 10"
    assert sorted(line.split(": ")[1] for line in said[2:4]) == [
        "conversation 0, masked copy",
        "conversation 0, original",
    ]
    first = int(said[6].split()[0])
    assert main([*row, "--mask-ratio", "0.5", "--seed", "3", "--start", "0"]) == 0
    whole = [line.split() for line in capsys.readouterr().out.splitlines()]
    begin = whole.index(["--", "conversation", "0,", "masked", "copy"])
    copy = whole[begin + 1 : begin + 21]
    answer = copy[14:]
    assert [line[2].strip("()") if line[1] == "[MASK]" else line[1] for line in answer] == list("abcabc")
    hidden = [int(line[0]) for line in answer if line[-2] == "masked"]
    assert len(hidden) == 3 and first == hidden[0] - 8, "it starts just before the first masked token"
    trained = [int(line[0]) for line in copy if line[-1] == "1"]
    assert trained == [at - 1 for at in hidden], "of the copy only masked tokens are trained, each from before it"
    assert main([*row, "--start", "0", "--mask-ratio", "0"]) == 0
    assert "20 positions and 28 of padding, 0 masked (0.0%), loss on 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seq-length", "64", "--strategy", "span"], "--mask-strategy"),
        (["--span-length", "5"], "--span-length"),
        (["--skip-first", "1", "--clean-fraction", "0.5"], "--clean-fraction, --skip-first"),
        (["--global-batch-size", "4"], "--global-batch-size"),
    ],
)
def test_show_refuses_what_fine_tuning_data_does_not_have(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    """Also values that are the defaults for text: what is typed and has no effect must not look as if it had one."""
    assert preprocess(folder) == 0
    capsys.readouterr()
    assert main(["show", str(folder / "out"), "--index", "0", *arguments]) == 2
    said = capsys.readouterr()
    assert f"meap: error: {named}: " in said.err and "is fine-tuning data" in said.err
    assert said.out == ""


def test_show_summarises_what_became_of_the_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess(folder, "--system", "be", "--max-length", "17", "--min-answer-words", "1") == 0
    capsys.readouterr()
    assert main(["show", str(folder / "out")]) == 0
    said = capsys.readouterr().out
    assert "a row per conversation, of at most 17 tokens, longer ones truncated" in said
    assert "2 records read, 2 kept, of these 0 truncated; dropped 0 too long" in said
    assert "5 tokens are trained, 15.2% of all" in said
    assert "answers of at most 1 words are never masked" in said
    assert "1 to 5             2  ####" in said
