"""Long documents get a larger share, every source its budget, and nothing but input, options and seed decides which."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.upsample.candidates import UpsampleResult
from meap_megatron.corpus.upsample.selection import MIXTURES, Upsample, draw, parse_mixture, parse_tokens
from meap_megatron.corpus.upsample.work import UpsampleWork
from meap_megatron.corpus.verify import verify
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix
from tests.corpus.corpus_samples import check_kills, config, documents, names


def words(number: int, count: int) -> str:
    """A text of `count` words (ids 3 to 6) that differs from those of other numbers below 4**count."""
    return " ".join("abcd"[number // 4**place % 4] for place in range(count))


def ids(text: str) -> list[int]:
    return [1, *(" abcd".index(word) + 2 for word in text.split()), 2]


def write_sources(path: Path, rows: list[tuple[str, str]]) -> Path:
    """JSON lines (source, text) in the layout of SlimPajama."""
    lines = [json.dumps({"text": text, "meta": {"redpajama_set_name": source}}) + "\n" for source, text in rows]
    path.write_text("".join(lines))
    return path


def stream(count: int) -> list[tuple[str, str]]:
    """Documents of two sources; every fifth has 32 words, the others 6."""
    return [("AB"[n % 3 == 0], words(n, 32 if n % 5 == 0 else 6)) for n in range(count)]


def options(total: int, **more: Any) -> Upsample:
    return Upsample(**{"total_tokens": total, "mixture": {"A": 2, "B": 1}, "long_from": 16, "keep": 0.3} | more)


def test_long_documents_are_kept_and_short_ones_with_the_probability(tmp_path: Path, word_tokenizer: Path) -> None:
    rows = [("A", words(n, 14 if n % 10 == 0 else 13)) for n in range(3000)]
    source = write_sources(tmp_path / "in.jsonl", rows)
    made = preprocess(
        config(source, tmp_path / "out", word_tokenizer, upsample=options(10**6, mixture={"A": 1}))
    ).upsample
    kept = documents(tmp_path / "out")
    # 14 words, BOS and EOS are 16 tokens: long.
    assert [row for row in kept if len(row) == 16] == [ids(text) for _, text in rows[::10]]
    short = sum(len(row) == 15 for row in kept)
    assert 2700 * 0.3 - 100 < short < 2700 * 0.3 + 100  # more than four standard deviations on either side
    assert made is not None
    assert made["sources"]["A"]["seen"] == {
        "documents": 3000,
        "tokens": 300 * 16 + 2700 * 15,
        "long_documents": 300,
        "long_tokens": 4800,
    }
    assert made["sources"]["A"]["kept"]["tokens"] == 4800 + 15 * short
    assert made["long_share_before"] == pytest.approx(4800 / 45300)
    assert made["long_share_after"] == pytest.approx(4800 / (4800 + 15 * short))


def test_every_source_is_taken_in_order_until_its_budget_is_met(tmp_path: Path, word_tokenizer: Path) -> None:
    texts = [words(n, 6) for n in range(12)]  # 8 tokens each
    rows = list(zip("ABABABABABAA", texts, strict=True))
    source = write_sources(tmp_path / "in.jsonl", rows)
    asked = options(30, keep=1.0)  # A: 20 tokens, three documents; B: 10 tokens, two
    made = preprocess(config(source, tmp_path / "out", word_tokenizer, upsample=asked)).upsample
    assert documents(tmp_path / "out") == [ids(texts[n]) for n in (0, 1, 2, 3, 4)]
    assert made is not None and made["options"] == dataclasses.asdict(asked)
    assert [made["sources"][name]["taken_tokens"] for name in "AB"] == [24, 16]
    assert [made["sources"][name]["budget_tokens"] for name in "AB"] == [20, 10]
    assert [made["sources"][name]["seen"]["documents"] for name in "AB"] == [3, 2]
    assert all(check.passed for check in verify(tmp_path / "out"))


@pytest.mark.parametrize(("workers", "shard_bytes"), [(1, 300), (1, 6_000), (3, 300), (2, 2_000)])
def test_neither_workers_nor_shards_change_a_byte_or_the_report(
    tmp_path: Path, word_tokenizer: Path, workers: int, shard_bytes: int
) -> None:
    source = write_sources(tmp_path / "in.jsonl", stream(300))
    asked = options(1500)
    whole = preprocess(config(source, tmp_path / "whole", word_tokenizer, upsample=asked, workers=1))
    assert whole.upsample is not None
    assert all(s["budget_met"] and s["seen"]["documents"] < 140 for s in whole.upsample["sources"].values())
    settings = config(
        source, tmp_path / "out", word_tokenizer, upsample=asked, workers=workers, shard_bytes=shard_bytes
    )
    assert preprocess(settings) == whole.__class__(
        **vars(whole) | {"tokenizer": check_prefix(tmp_path / "out").tokenizer}
    )
    for suffix in (".bin", ".idx"):
        assert Path(f"{tmp_path}/out{suffix}").read_bytes() == Path(f"{tmp_path}/whole{suffix}").read_bytes()


def test_a_kill_before_any_file_operation_is_resumed_to_the_same_bytes(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_sources(tmp_path / "in.jsonl", stream(40))

    def make(folder: Path, **more: Any) -> None:
        settings = {"workers": 1, "shard_bytes": 900, "upsample": options(300), **more}
        preprocess(config(source, folder / "out", word_tokenizer, **settings))

    check_kills(tmp_path, make, stride=3)


def test_reading_stops_when_all_budgets_are_met(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_sources(tmp_path / "in.jsonl", stream(200))
    with source.open("a") as lines:
        lines.write("no JSON\n")
    asked = options(500)
    preprocess(config(source, tmp_path / "out", word_tokenizer, upsample=asked, workers=1, shard_bytes=1000))
    with pytest.raises(UserError, match=r"in\.jsonl:201"):
        preprocess(config(source, tmp_path / "all", word_tokenizer, upsample=options(10**6), workers=1))


def test_a_shard_that_is_finished_early_does_not_cut_those_before_it(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_sources(tmp_path / "in.jsonl", stream(60))
    work = UpsampleWork(config(source, tmp_path / "out", word_tokenizer, shard_bytes=1000), options(100))
    *before, (last, _) = work.shards
    counts = {"num_documents": 9, "num_tokens": 900, "text_bytes": 0, "num_bad": 0, "bad_lines": ()}
    more = {"num_bos_text": 0, "bos_text_place": None, "dropped": {}, "unused": {}}
    more |= {"num_rows": 9, "sizes": [600, 300], "unknown_sources": {}}
    results = {last: UpsampleResult(shard=last, **counts, **more)}
    assert list(work.upcoming(before, results)) == before
    # The same result at the front meets both budgets.
    first, *after = work.shards
    assert list(work.upcoming(after, {first[0]: results[last]})) == []


def test_files_of_a_met_source_are_not_opened(tmp_path: Path, word_tokenizer: Path) -> None:
    for folder, count in (("A", 2), ("B", 1)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "in" / folder / f"{number}.txt").write_text(words(number, 20))
    (tmp_path / "in" / "A" / "9.jsonl").write_text("no JSON\n")
    asked = options(60, source="folder", mixture={"A": 0.5, "B": 0.5})  # 22 tokens each: two of A, one of B
    settings = {"workers": 1, "shard_bytes": 1, "upsample": asked}
    preprocess(config(tmp_path / "in", tmp_path / "out", word_tokenizer, **settings))
    assert documents(tmp_path / "out") == [ids(words(0, 20)), ids(words(1, 20)), ids(words(0, 20))]
    with pytest.raises(UserError, match=r"9\.jsonl:1"):
        more = {**settings, "upsample": options(200, source="folder", mixture={"A": 0.5, "B": 0.5})}
        preprocess(config(tmp_path / "in", tmp_path / "more", word_tokenizer, **more))


def test_the_choice_follows_the_text_and_the_seed_wherever_the_text_stands(
    tmp_path: Path, word_tokenizer: Path
) -> None:
    rows = stream(120)
    asked = options(10**6)
    first = write_sources(tmp_path / "in.jsonl", rows)
    moved = write_sources(tmp_path / "elsewhere.jsonl", rows[::-1])
    preprocess(config(first, tmp_path / "out", word_tokenizer, upsample=asked))
    preprocess(config(moved, tmp_path / "moved", word_tokenizer, upsample=asked))
    assert documents(tmp_path / "moved") == documents(tmp_path / "out")[::-1]
    preprocess(config(first, tmp_path / "seed", word_tokenizer, upsample=options(10**6, seed=7)))
    assert documents(tmp_path / "seed") != documents(tmp_path / "out")


def test_draws_are_uniform_and_stay_what_they_were() -> None:
    draws = [draw(str(n).encode(), seed=42) for n in range(20_000)]
    assert all(0 <= value < 1 for value in draws)
    for bound in (0.1, 0.5, 0.9):
        assert abs(sum(value < bound for value in draws) / len(draws) - bound) < 0.015
    # A corpus that was made once can be made again: these may never change.
    assert draw(b"", seed=0) == pytest.approx(0.23479174073963682, abs=1e-15)
    assert draw("é漢".encode(), seed=42) == pytest.approx(0.09396020567783148, abs=1e-15)


def test_sources_come_from_keys_columns_folders_and_files(tmp_path: Path, word_tokenizer: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [("A", "a b"), ("B", "b c"), ("A", "c d")] * 700  # more than one batch of rows
    expected = [ids(text) for source, text in rows if source == "A"]
    asked = {"mixture": {"A": 1}, "keep": 1.0}
    nested = pyarrow.table({"meta": [{"set": s} for s, _ in rows], "text": [t for _, t in rows]})
    pyarrow.parquet.write_table(nested, tmp_path / "nested.parquet")
    flat = pyarrow.table({"text": [t for _, t in rows], "kind": [s for s, _ in rows]})
    pyarrow.parquet.write_table(flat, tmp_path / "flat.parquet")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": t, "kind": s}) + "\n" for s, t in rows))
    for name, source in (("nested.parquet", "meta.set"), ("flat.parquet", "kind"), ("lines.jsonl", "kind")):
        settings = {"upsample": options(10**6, source=source, **asked), "overwrite": True}
        preprocess(config(tmp_path / name, tmp_path / "out", word_tokenizer, **settings))
        assert documents(tmp_path / "out") == expected, name
    for name in ("A.part1.jsonl", "A.part2.jsonl", "B.jsonl"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_text(json.dumps({"text": "a" if name < "B" else "b"}) + "\n")
    settings = {"upsample": options(10**6, source="file", **asked), "overwrite": True}
    preprocess(config(tmp_path / "files", tmp_path / "out", word_tokenizer, **settings))
    assert documents(tmp_path / "out") == [[1, 3, 2], [1, 3, 2]]


def test_unknown_sources_are_left_out_and_named_and_missing_ones_are_bad_lines(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_sources(tmp_path / "in.jsonl", [("A", "a b"), ("C", "b c"), ("B", "c d"), ("C", "d")])
    asked = options(10**6, keep=1.0)
    preprocess(config(source, tmp_path / "out", word_tokenizer, upsample=asked))
    assert documents(tmp_path / "out") == [ids("a b"), ids("c d")]
    assert "2 documents of sources that the mixture does not name are left out: C (2)" in capsys.readouterr().err
    with source.open("a") as lines:
        lines.write('{"text": "a", "meta": {}}\n')
    with pytest.raises(UserError, match=r"in\.jsonl:5: no source under the key 'meta.redpajama_set_name'"):
        preprocess(config(source, tmp_path / "bad", word_tokenizer, upsample=asked))


def test_an_input_too_small_for_the_budgets_is_warned_about_with_what_it_is_enough_for(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("A", words(n, 6)) for n in range(10)] + [("B", words(20, 6))]  # 80 and 8 tokens
    source = write_sources(tmp_path / "in.jsonl", rows)
    made = preprocess(config(source, tmp_path / "out", word_tokenizer, upsample=options(90, keep=1.0))).upsample
    assert made is not None
    assert [made["sources"][name]["budget_met"] for name in "AB"] == [True, False]
    said = capsys.readouterr().err
    assert "B 8 of 30 tokens" in said and "enough for --length-upsample 24" in said
    preprocess(config(source, tmp_path / "fits", word_tokenizer, upsample=options(24, keep=1.0)))
    assert "warning" not in capsys.readouterr().err


def test_the_official_estimate_counts_characters(tmp_path: Path, word_tokenizer: Path) -> None:
    # Long from 10 estimated tokens: 36.8 characters.
    texts = ["é" * 36, "é" * 37, "a" * 37, "a b c d " * 5]
    source = write_sources(tmp_path / "in.jsonl", [("A", text) for text in texts])
    asked = options(21, mixture={"A": 1}, keep=0.0, long_from=10, measure="estimate")
    made = preprocess(config(source, tmp_path / "out", word_tokenizer, upsample=asked)).upsample
    # 37 + 37 characters are 20.1 tokens of the budget of 21, so the last document is taken too.
    assert documents(tmp_path / "out") == [[1, 0, 2], [1, 0, 2], ids(texts[3])]
    assert made is not None and made["sources"]["A"]["taken_tokens"] == round((37 + 37 + 40) / 3.68)


def test_the_named_mixtures_are_those_of_the_code_and_of_the_paper() -> None:
    code, text = MIXTURES["slimpajama"], MIXTURES["slimpajama-text"]
    assert sum(code.values()) == pytest.approx(1) and sum(text.values()) == pytest.approx(1)
    assert code["RedPajamaCommonCrawl"] == 0.53375 and text["RedPajamaCommonCrawl"] == 0.67
    budgets = Upsample(total_tokens=4 * 10**9, mixture=parse_mixture("slimpajama")).budgets()
    assert budgets[2] == pytest.approx(126_800_000)  # StackExchange, 3.17 %
    assert parse_mixture("web=3, books = 1") == {"web": 3.0, "books ": 1.0}
    assert [parse_tokens(word) for word in ("4B", "1.5m", "20000")] == [4 * 10**9, 1_500_000, 20_000]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_tokens": 0}, "must be at least 1"),
        ({"keep": 1.5}, "--upsample-keep 1.5"),
        ({"long_from": 0}, "--upsample-long-from 0"),
        ({"measure": "bytes"}, "--upsample-measure 'bytes'"),
        ({"mixture": {}}, "names 0 sources"),
        ({"mixture": {"A": -1.0}}, "weight of A is -1.0"),
        ({"seed": -1}, "--upsample-seed -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Upsample(**{"total_tokens": 1, "mixture": {"A": 1.0}} | arguments)


@pytest.mark.parametrize("text", ["web", "web=", "=1", "web=x", "web=1,web=2"])
def test_a_mixture_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--upsample-mixture"):
        parse_mixture(text)


def test_an_array_task_and_plain_text_without_a_place_are_refused(tmp_path: Path, word_tokenizer: Path) -> None:
    (tmp_path / "in.txt").write_text("a b")
    with pytest.raises(UserError, match="--shard with --length-upsample"):
        preprocess(config(tmp_path / "in.txt", tmp_path / "out", word_tokenizer, upsample=options(9), shard=(0, 2)))
    with pytest.raises(UserError, match="--upsample-source folder or file"):
        preprocess(config(tmp_path / "in.txt", tmp_path / "out", word_tokenizer, upsample=options(9)))
    assert names(tmp_path) == ["in.txt", "words"]


def test_the_verb_reports_what_it_kept_and_resume_refuses_other_options(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_sources(tmp_path / "in.jsonl", stream(300))
    command = [
        "preprocess",
        "text",
        str(source),
        "-t",
        str(word_tokenizer),
        "-o",
        str(tmp_path / "out"),
        "--workers=1",
    ]
    asked = ["--length-upsample", "1500", "--upsample-mixture", "A=2,B=1", "--upsample-long-from", "16"]
    assert main([*command, *asked, "--upsample-keep", "0.3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[1:4]] == ["source", "A", "B"]
    assert "tokens in long documents: 51.7% of this mixture without upsampling, 75.9% of what was kept" in said[4]
    assert main(["show", str(tmp_path / "out")]) == 0
    assert "for 1,500 tokens with seed 42" in (shown := capsys.readouterr().out) and said[4] in shown
    assert main([*command, *asked, "--upsample-keep", "0.3", "--resume"]) == 0
    assert "complete already" in capsys.readouterr().err
    assert main([*command, *asked, "--upsample-keep", "0.2", "--resume"]) == 2
    assert "other inputs or options" in capsys.readouterr().err
    assert main([*command, "--upsample-keep", "0.2", "--overwrite"]) == 2
    assert "--upsample-keep needs --length-upsample" in capsys.readouterr().err
