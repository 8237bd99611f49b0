"""A chat template that writes the date writes the same one in resumed runs, parts and merged data."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.merge import merge
from meap_megatron.corpus.sft import template_fit
from meap_megatron.corpus.sft.chat_template import ChatTemplate
from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import read_sidecar
from tests.corpus.sft.sft_samples import config, messages, rows
from tests.support.conversations import write_chat_tokenizer, write_rows

DATED = (
    "\n{{ 'Today is ' + strftime_now('%d %b %Y') + '.' }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>"
    "{% endfor %}"
)


class Clock(datetime.date):
    day = 1

    @classmethod
    def today(cls) -> "Clock":
        return cls(2031, 5, cls.day)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(template_fit.datetime, "date", Clock)
    tokenizer = write_chat_tokenizer(tmp_path / "tok", vocab_size=400, chat_template=DATED)
    source = write_rows(tmp_path / "in.jsonl", [*(messages("q", f"a{i}") for i in range(9)), {"messages": "none"}])

    def make(day: int, name: str = "out", **options: Any) -> Any:
        monkeypatch.setattr(Clock, "day", day)
        given = {"workers": 1, "shard_bytes": 200, "max_bad_lines": 1, **options}
        return preprocess_sft(config(source, tmp_path / name, tokenizer, **given))

    return make


def texts(prefix: Path) -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(prefix.parent / "tok" / "tokenizer.json"))
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids, _ in rows(prefix)]


def test_the_date_is_that_of_the_first_day_and_is_said(
    job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="in.jsonl:10"):
        job(1, max_bad_lines=0)
    assert "the chat template writes a date: 2031-05-01 (--date)" in capsys.readouterr().err
    sidecar = job(2, resume=True)
    assert sidecar.sft["date"] == read_sidecar(tmp_path / "out").sft["date"] == "2031-05-01"  # type: ignore[index]
    assert {text.partition(".")[0] for text in texts(tmp_path / "out")} == {"\nToday is 01 May 2031"}
    job(3, resume=True)
    assert "is complete already" in capsys.readouterr().err


def test_an_option_sets_the_date_and_parts_need_it(job: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give all parts the same with --date 2031-05-01"):
        job(1, "x", shard=(0, 2))
    day = datetime.datetime(2024, 2, 29).date()
    job(1, "whole", date=day)
    for part in (0, 1):
        job(part + 2, "x", shard=(part, 2), date=day)
    merge(tmp_path / "merged", sorted(map(str, tmp_path.glob("x.shard-*"))))
    assert rows(tmp_path / "merged") == rows(tmp_path / "whole")
    assert texts(tmp_path / "merged")[0].startswith("\nToday is 29 Feb 2024.")
    assert read_sidecar(tmp_path / "merged").sft["date"] == "2024-02-29"  # type: ignore[index]


def test_parts_of_two_dates_do_not_merge(job: Any, tmp_path: Path) -> None:
    for part in (0, 1):
        job(1, "x", shard=(part, 2), date=datetime.datetime(2024, 2, 28 + part).date())
    with pytest.raises(UserError, match="date is '2024-02-29' in the one and '2024-02-28'"):
        merge(tmp_path / "merged", sorted(map(str, tmp_path.glob("x.shard-*"))))


def test_the_frozen_template_writes_what_the_clock_would() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = DATED.replace("{{", "{% set when = '%Y' ~ '-%j' %}{% if strftime_now is defined %}{{", 1).replace(
        "{% for", "{% endif %}{% for", 1
    )
    talk = [{"role": "user", "content": "q"}]
    today = datetime.date.today()
    frozen = ChatTemplate(sources={"default": source}, variables={}, date=today)
    if datetime.date.today() == today:
        assert frozen.render(talk)[0] == render_jinja_template([talk], chat_template=source)[0][0]


def test_a_format_that_is_no_literal_is_refused_by_name() -> None:
    source = "{{ strftime_now('%Y' ~ '-%j') }}{{ messages[0].content }}"
    frozen = ChatTemplate(sources={"default": source}, variables={}, date=datetime.date(2024, 2, 29))
    with pytest.raises(UserError, match="the date format %Y-%j is not a literal of the chat template"):
        frozen.render([{"role": "user", "content": "q"}])


def test_data_of_a_template_without_date_has_none(tmp_path: Path) -> None:
    tokenizer = write_chat_tokenizer(tmp_path / "tok", vocab_size=400, chat_template=DATED.replace("strftime_now", ""))
    preprocess_sft(config(write_rows(tmp_path / "in.jsonl", [messages("q", "a")]), tmp_path / "out", tokenizer))
    assert "date" not in json.loads((tmp_path / "out.meap.json").read_text())["sft"]
