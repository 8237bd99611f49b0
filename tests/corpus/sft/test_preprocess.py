"""From files to datasets: formats of files, interruption, shards, properties."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap_megatron.corpus.merge import merge
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.sft.settings import SftConfig
from meap_megatron.corpus.verify import verify
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix
from tests.corpus.corpus_samples import check_kills, content, names
from tests.corpus.sft.sft_samples import alpaca, config, messages, rows, sharegpt
from tests.support.conversations import docstring_rows, write_alpaca, write_rows

FINISHED = ["out.bin", "out.idx", "out.meap.json", "out.roles.bin", "out.roles.idx", "out.tokenizer"]
SOME = [alpaca(f"q {i}", "a b c " * (i % 5 + 1)) for i in range(9)]


def write_parquet(path: Path, data: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), path, row_group_size=2)


def write_zst(path: Path, data: list[Any]) -> None:
    import zstandard

    raw = "".join(json.dumps(row) + "\n" for row in data).encode()
    path.write_bytes(zstandard.ZstdCompressor().compress(raw))


WRITERS = {
    "x.jsonl": lambda path, data: write_rows(path, data),
    "lines.json": lambda path, data: write_rows(path, data),
    "array.json": lambda path, data: write_alpaca(path, tuple(data)),
    "marked.json": lambda path, data: path.write_bytes(b"\xef\xbb\xbf\n [" + json.dumps(data).encode()[1:]),
    "array.json.gz": lambda path, data: path.write_bytes(gzip.compress(json.dumps(data).encode())),
    "x.jsonl.zst": write_zst,
    "x.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, chat_words: Path, name: str) -> None:
    preprocess_sft(config(write_rows(tmp_path / "ref.jsonl", SOME), tmp_path / "ref", chat_words))
    WRITERS[name](tmp_path / name, SOME)
    preprocess_sft(config(tmp_path / name, tmp_path / "out", chat_words, shard_bytes=100, workers=1))
    assert rows(tmp_path / "out") == rows(tmp_path / "ref")


def test_files_and_rows_of_several_formats_are_read_together(tmp_path: Path, chat_words: Path) -> None:
    data = [alpaca("q", "a"), sharegpt("q", "a"), messages("q", "a")]
    files = [write_rows(tmp_path / f"{number}.jsonl", [row]) for number, row in enumerate(data)]
    for source in (files, write_rows(tmp_path / "in.jsonl", data)):
        preprocess_sft(config(source, tmp_path / "out", chat_words, overwrite=True))
        first, *others = rows(tmp_path / "out")
        assert others == [first, first]


def test_a_bad_first_row_is_one_of_the_bad_lines_that_are_allowed(tmp_path: Path, chat_words: Path) -> None:
    for name, first in (("text", "not json"), ("object", '{"a": 1}'), ("array", "[see below]")):
        source = tmp_path / f"{name}.jsonl"
        source.write_text(first + "\n" + json.dumps(SOME[0]) + "\n")
        with pytest.raises(UserError, match=f"{name}.jsonl:1: "):
            preprocess_sft(config(source, tmp_path / name, chat_words))
        sidecar = preprocess_sft(config(source, tmp_path / name, chat_words, max_bad_lines=1))
        assert sidecar.num_documents == 1


def test_messages_of_a_parquet_file_may_lack_the_train_key(tmp_path: Path, chat_words: Path) -> None:
    data = [messages("q", "a"), messages("q", "a", "r", "b")]
    data[1]["messages"][1]["train"] = False
    write_parquet(tmp_path / "in.parquet", data)
    preprocess_sft(config(tmp_path / "in.parquet", tmp_path / "out", chat_words))
    assert [sum(role > 0 for role in roles) for _, roles in rows(tmp_path / "out")] == [2, 2]


def test_bad_rows_of_an_array_are_named_by_line_also_behind_the_first_piece(
    tmp_path: Path, chat_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Indented, a row has five lines, the first row starts at line 2; the text holds two newlines, written as \\n.
    data: list[Any] = [alpaca("q\n\né", "a") for _ in range(6)]
    del data[4]["output"]
    source = write_alpaca(tmp_path / "in.json", tuple(data))
    options = {"shard_bytes": 60, "workers": 1, "max_bad_lines": 1}
    sidecar = preprocess_sft(config(source, tmp_path / "out", chat_words, **options))
    assert f"{source}:22: no key 'output'" in capsys.readouterr().err
    assert sidecar.num_documents == 5
    assert sidecar.sft is not None and sidecar.sft["counts"]["bad"] == 1


def test_counts_histogram_and_share_stand_in_the_sidecar(tmp_path: Path, chat_words: Path) -> None:
    data = [sharegpt("q", "a " * n, "r", "b") for n in (5, 6, 50, 51)]
    sidecar = preprocess_sft(config(write_rows(tmp_path / "in.jsonl", data), tmp_path / "out", chat_words))
    assert sidecar.kind == "sft" and sidecar.sft is not None
    assert sidecar.sft["answer_length_histogram"] == [[5, 5], [10, 1], [25, 0], [50, 1], [100, 1]]
    assert sidecar.sft["num_trained_tokens"] == 5 + 6 + 50 + 51 + 4 + 8
    found = rows(tmp_path / "out")
    assert sidecar.sft["num_trained_tokens"] == sum(role > 0 for _, roles in found for role in roles)
    assert sidecar.sft["trained_share"] == round(124 / sidecar.num_tokens, 6)
    assert sidecar.sft["roles_bytes"] == sidecar.num_tokens
    assert sidecar.num_tokens == sum(len(ids) for ids, _ in found)


def test_the_histogram_counts_answers_before_truncation_and_trained_tokens_after(
    tmp_path: Path, chat_words: Path
) -> None:
    data = [sharegpt("q", "a " * 60), sharegpt("q", "a " * 8, "r", "b " * 70), sharegpt("q", "a", "r", "b " * 70)]
    source = write_rows(tmp_path / "in.jsonl", data)
    sidecar = preprocess_sft(config(source, tmp_path / "out", chat_words, system="be", max_length=32))
    # 14 tokens precede a first answer and 9 a second one, of which the second row holds nothing.
    assert [roles[14:] for _, roles in rows(tmp_path / "out")] == [
        [1] * 17 + [64 + 60],
        [1] * 8 + [2] + [0] * 9,
        [1, 2] + [0] * 9 + [1] * 6 + [64 + 70],
    ]
    assert sidecar.sft is not None
    assert sidecar.sft["answer_length_histogram"] == [[5, 1], [10, 1], [25, 0], [50, 0], [100, 2]]
    assert sidecar.sft["num_trained_tokens"] == 18 + 9 + 2 + 7
    assert sidecar.sft["counts"]["truncated"] == 3


def test_megatron_reads_both_pairs(tmp_path: Path, chat_words: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    preprocess_sft(config(write_rows(tmp_path / "in.jsonl", SOME), tmp_path / "out", chat_words))
    ids, roles = (IndexedDataset(str(tmp_path / name)) for name in ("out", "out.roles"))
    assert roles[0].dtype == "uint8"
    assert [(a.tolist(), b.tolist()) for a, b in zip(ids, roles, strict=True)] == rows(tmp_path / "out")


def test_the_bytes_do_not_depend_on_shards_or_workers(tmp_path: Path, chat_bytes: Path) -> None:
    source = write_alpaca(tmp_path / "in.json", docstring_rows(300))
    preprocess_sft(config(source, tmp_path / "whole" / "out", chat_bytes, workers=1, max_length=256))
    small = {"shard_bytes": 8_000, "max_length": 256}
    preprocess_sft(config(source, tmp_path / "two" / "out", chat_bytes, workers=2, **small))
    assert content(tmp_path / "two") == content(tmp_path / "whole")
    for index in (2, 0, 1):
        preprocess_sft(config(source, tmp_path / "x", chat_bytes, shard=(index, 3), workers=1, **small))
    merge(tmp_path / "merged" / "out", sorted(map(str, tmp_path.glob("x.shard-*"))))
    whole, merged = content(tmp_path / "whole"), content(tmp_path / "merged")
    sidecar = json.loads(whole.pop("out.meap.json"))
    del sidecar["plan"]  # merged data was made by several commands
    assert json.loads(merged.pop("out.meap.json")) == sidecar
    assert merged == whole
    assert all(check.passed for check in verify(tmp_path / "merged" / "out"))


def test_a_kill_before_any_file_operation_is_resumed_to_the_same_bytes(tmp_path: Path, chat_words: Path) -> None:
    source = write_alpaca(tmp_path / "in.json", tuple(SOME[:4]))
    options: dict[str, Any] = {"workers": 1, "shard_bytes": 150, "encoder": "tokenizers"}
    make = lambda folder, **more: preprocess_sft(config(source, folder / "out", chat_words, **options, **more))  # noqa: E731
    check_kills(tmp_path, make, stride=3)
    assert names(tmp_path / "reference") == FINISHED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "chatml"}, "template is 'chatml'"),
        ({"multi_turn": "split"}, "multi_turn is 'split'"),
        ({"max_length": 9}, "max_length is 9"),
        ({"system": "x"}, "system is 'x'"),
        ({"format": "sharegpt"}, "format is 'sharegpt'"),
        ({"alpaca_prompt": "stanford"}, "alpaca_prompt is 'message'"),
        ({"columns": {"question": "x", "answer": "z"}}, "columns is {'question': 'x', 'answer': 'z'}"),
    ],
)
def test_resume_with_other_options_is_refused(
    tmp_path: Path, chat_words: Path, changes: dict[str, Any], message: str
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*SOME, {"instruction": "no output"}])
    options: dict[str, Any] = {"shard_bytes": 100, "workers": 1}
    with pytest.raises(UserError, match="in.jsonl:10: no key 'output'"):
        preprocess_sft(config(source, tmp_path / "out", chat_words, **options))
    with pytest.raises(UserError, match=message):
        preprocess_sft(config(source, tmp_path / "out", chat_words, resume=True, **options, **changes))
    preprocess_sft(config(source, tmp_path / "out", chat_words, resume=True, max_bad_lines=1, **options))
    assert len(rows(tmp_path / "out")) == 9


@pytest.mark.parametrize(
    "changes",
    [{"template": "chatml"}, {"max_length": 9}, {"system": "x"}, {"alpaca_prompt": "stanford"}, {"inputs": ["other"]}],
)
def test_a_finished_run_of_another_command_is_not_taken_for_this_one(
    tmp_path: Path, chat_words: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", SOME)
    other = write_rows(tmp_path / "other.jsonl", SOME[:2])
    job = config(source, tmp_path / "out", chat_words)
    first = preprocess_sft(job)
    if "inputs" in changes:
        changes = {"inputs": [str(other)]}
    with pytest.raises(
        UserError, match="exists already and was made from other inputs or options; replace it with --overwrite"
    ):
        preprocess_sft(SftConfig(**{**vars(job), "resume": True, **changes}))
    assert "complete already" not in capsys.readouterr().err
    assert preprocess_sft(SftConfig(**{**vars(job), "resume": True})) == first
    assert "is complete already" in capsys.readouterr().err


def test_text_that_replaces_conversations_leaves_no_roles(tmp_path: Path, chat_words: Path) -> None:
    preprocess_sft(config(write_rows(tmp_path / "in.jsonl", SOME), tmp_path / "out", chat_words))
    text = write_rows(tmp_path / "text.jsonl", [{"text": "a b"}])
    options = {"output": str(tmp_path / "out"), "tokenizer": str(chat_words)}
    with pytest.raises(UserError, match="exists already"):
        preprocess(PreprocessConfig(inputs=[str(text)], **options))
    preprocess(PreprocessConfig(inputs=[str(text)], overwrite=True, **options))
    assert not list(tmp_path.glob("out.roles*"))
    assert check_prefix(tmp_path / "out").kind == "text"


TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n<|>[MASK]eot_idé漢")), min_size=0, max_size=30
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dialogues=st.lists(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), min_size=1, max_size=4),
    template=st.sampled_from(["llama3", "vicuna", "chatml", "mistral", "alpaca"]),
)
def test_the_trained_spans_decode_to_the_answers(
    tmp_path: Path, chat_bytes: Path, dialogues: list[list[tuple[str, str]]], template: str
) -> None:
    """Whatever the texts: the spans of role 1 are the answers that are not empty, in order, and nothing else."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(chat_bytes / "tokenizer.json"))
    data = [sharegpt(*(text for pair in dialogue for text in pair)) for dialogue in dialogues]
    source = write_rows(tmp_path / "in.jsonl", data)
    job = config(source, tmp_path / "out", chat_bytes, template=template, workers=1, encoder="tokenizers")
    preprocess_sft(SftConfig(**{**vars(job), "overwrite": True}))
    for dialogue, (ids, roles) in zip(dialogues, rows(tmp_path / "out"), strict=True):
        spans: list[list[int]] = []
        for position, (token, role) in enumerate(zip(ids, roles, strict=True)):
            if role == 1:
                if roles[position - 1] != 1:
                    spans.append([])
                spans[-1].append(token)
        decoded = [tokenizer.decode(span, skip_special_tokens=False) for span in spans]
        assert decoded == [answer for _, answer in dialogue if answer]
        assert sum(a == 2 and b != 2 for a, b in zip(roles, [*roles[1:], 0], strict=True)) == len(dialogue)


def test_a_part_without_rows_is_a_dataset_that_merges(tmp_path: Path, chat_words: Path) -> None:
    source = write_alpaca(tmp_path / "in.json", tuple(SOME[:2]))
    preprocess_sft(config(source, tmp_path / "whole", chat_words))
    for index in range(3):
        preprocess_sft(config(source, tmp_path / "x", chat_words, shard=(index, 3), shard_bytes=10**6))
    assert all(check.passed for check in verify(tmp_path / "x.shard-0-of-3"))
    merge(tmp_path / "out", sorted(map(str, tmp_path.glob("x.shard-*"))))
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert check_prefix(tmp_path / "out").content_hash == check_prefix(tmp_path / "whole").content_hash


def test_resume_does_not_trust_roles_of_another_size(tmp_path: Path, chat_words: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*SOME, {"instruction": "no output"}])
    options: dict[str, Any] = {"shard_bytes": 100, "workers": 1}
    with pytest.raises(UserError, match="no key 'output'"):
        preprocess_sft(config(source, tmp_path / "out", chat_words, **options))
    part = tmp_path / "out.parts" / "part-000000.roles"
    part.write_bytes(part.read_bytes()[:-1])
    preprocess_sft(config(source, tmp_path / "out", chat_words, resume=True, max_bad_lines=1, **options))
    assert all(check.passed for check in verify(tmp_path / "out"))
    assert len(rows(tmp_path / "out")) == 9


def test_a_run_names_what_of_the_rows_was_not_used(
    tmp_path: Path, chat_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [{**alpaca("q", "a"), "source": "s", "note": ""}, {**alpaca("q", "b"), "source": "t"}, alpaca("q", "c")]
    source = write_rows(tmp_path / "in.jsonl", data)
    preprocess_sft(config(source, tmp_path / "out", chat_words))
    said = capsys.readouterr().err.splitlines()
    assert said[-4:] == [
        "meap: 1 file read",
        "meap: 3 records read, 3 kept, 0 dropped",
        "meap: keys of records that are not used:",
        f"  source (2): first {source}:1",
    ]
    with pytest.raises(UserError, match=r"--strict: records would .* keys that are not used:\n  source .2.: first"):
        preprocess_sft(config(source, tmp_path / "strict", chat_words, strict=True))
    known = {"strict": True, "ignore_keys": ("source",)}
    preprocess_sft(config(source, tmp_path / "strict", chat_words, **known))
    assert rows(tmp_path / "strict") == rows(tmp_path / "out")
    assert "not used" not in capsys.readouterr().err


def test_columns_of_parquet_that_are_not_read_are_named(
    tmp_path: Path, chat_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "q": pyarrow.array(["q", "r"]).dictionary_encode(),
        "reply": pyarrow.array(["a", "b"]).cast(pyarrow.string_view()),
        "source": ["s", None],
        "nothing": pyarrow.array([None, None], pyarrow.string()),
        "vector": [[0.5], [0.25]],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    names = {"question": "q", "answer": "reply"}
    preprocess_sft(config(tmp_path / "in.parquet", tmp_path / "out", chat_words, columns=names))
    said = capsys.readouterr().err
    assert f"  source (2): first {tmp_path}/in.parquet: row 1\n  vector (2): first" in said
    assert "nothing" not in said
    reference = write_rows(tmp_path / "in.jsonl", [alpaca("q", "a"), alpaca("r", "b")])
    preprocess_sft(config(reference, tmp_path / "ref", chat_words))
    assert rows(tmp_path / "out") == rows(tmp_path / "ref")


def test_structs_of_parquet_lose_the_nulls_that_only_their_neighbours_need(tmp_path: Path) -> None:
    from meap_megatron.corpus.cutting import cut
    from meap_megatron.corpus.inputs import find_inputs
    from meap_megatron.corpus.sft.records_reader import ObjectReader

    calls = [{"function": {"name": "f", "arguments": {"x": 1}}}]
    data: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": calls}]},
        {"messages": [{"role": "tool", "content": "t", "tool_calls": [{"function": {"arguments": {"y": 2}}}]}]},
    ]
    write_parquet(tmp_path / "in.parquet", data)
    (piece,) = cut(find_inputs([str(tmp_path / "in.parquet")]).files[0], 10**9)
    first, second = (row for _, row in ObjectReader(piece))
    assert first == {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]}
    assert second == data[1]


def test_official_turns_of_a_dialogue_with_calls_are_trained_and_the_rest_is_named(
    tmp_path: Path, chat_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogue = [
        ("human", "q"),
        ("gpt", "a"),
        ("human", "r"),
        ("function_call", "{}"),
        ("observation", "o"),
        ("gpt", "b"),
    ]
    row = {"conversations": [{"from": name, "value": value} for name, value in dialogue]}
    source = write_rows(tmp_path / "in.jsonl", [row])
    options: dict[str, Any] = {"multi_turn": "split", "template": "llama3"}
    preprocess_sft(config(source, tmp_path / "out", chat_words, **options))
    reference = write_rows(tmp_path / "ref.jsonl", [sharegpt("q", "a", "r", "b")])
    preprocess_sft(config(reference, tmp_path / "ref", chat_words, **options))
    assert rows(tmp_path / "out") == rows(tmp_path / "ref")
    assert "turns of 'function_call' (--multi-turn split) (1): first" in capsys.readouterr().err
