"""Which template a tokenizer gets, what ends its answers, and chat templates that cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.sft.templates import DEFAULTS
from meap_megatron.errors import UserError
from tests.corpus.sft.sft_samples import LATER, SOURCE, alpaca, config, make, sharegpt
from tests.support.conversations import write_rows


def instruct(folder: Path, **config: Any) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


CHAT = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}"


@pytest.mark.parametrize("settings", [{"eos_token": "<|eot_id|>"}, {"chat_template": CHAT}])
def test_an_instruct_tokenizer_ends_llama3_answers_with_its_end_of_turn(
    tmp_path: Path, chat_words: Path, settings: dict[str, str]
) -> None:
    folder = instruct(chat_words, **settings)
    data = [sharegpt("q", "a", "r", "b")]
    eot = make(tmp_path, folder, data, template="llama3")
    assert eot == [(f"{SOURCE} a {LATER} b <|eot_id|>", "0" * 14 + "12" + "0" * 8 + "12")]
    eos = make(tmp_path, folder, data, template="llama3", answer_end="eos", overwrite=True)
    last = "<|eot_id|>" if "eos_token" in settings else "</s>"
    assert eos == [(f"{SOURCE} a {last} {LATER} b {last}", "0" * 14 + "12" + "0" * 9 + "12")]


def without(folder: Path, *tokens: str) -> Path:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] not in tokens]
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("settings", "absent", "template"),
    [
        ({"chat_template": CHAT}, (), "tokenizer"),
        ({}, (), "llama3"),
        ({}, ("<|eot_id|>",), "chatml"),
        ({}, ("<|eot_id|>", "<|im_end|>"), "alpaca"),
    ],
)
def test_the_default_is_the_template_that_the_tokenizer_is_made_for(
    tmp_path: Path,
    chat_words: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    absent: tuple[str, ...],
    template: str,
) -> None:
    folder = without(instruct(chat_words, **settings), *absent)
    source = write_rows(tmp_path / "in.jsonl", [alpaca("q", "a")])
    sidecar = preprocess_sft(config(source, tmp_path / "out", folder))
    assert sidecar.sft is not None and sidecar.sft["template"] == template
    assert f"meap: note: using template {template}: {DEFAULTS[template]}" in capsys.readouterr().err


def test_a_chat_template_ends_its_answers_itself(tmp_path: Path, chat_words: Path) -> None:
    with pytest.raises(UserError, match="--answer-end eos: the tokenizer's chat template ends the answers itself"):
        make(tmp_path, instruct(chat_words, chat_template=CHAT), [alpaca("q", "a")], answer_end="eos")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (
            "{% for m in messages %}\n{{ m.content }",
            "its default chat template is not valid Jinja, line 2: unexpected '}'",
        ),
        (
            "{% for m in messages %}",
            "its default chat template is not valid Jinja, line 1: Unexpected end of template",
        ),
        ("{% generation %}{% endgeneration %}{% break %}", None),
        ("\xe9".encode("latin-1"), "chat_template.jinja is not UTF-8"),
    ],
)
def test_a_chat_template_that_cannot_be_read_is_refused(
    tmp_path: Path, chat_words: Path, template: str | bytes, found: str | None
) -> None:
    """Also one beside a tokenizer.json without a configuration."""
    (chat_words / "chat_template.jinja").write_bytes(template if isinstance(template, bytes) else template.encode())
    (chat_words / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=found or "the chat template refuses the conversation"):
        make(tmp_path, chat_words, [alpaca("q", "a")], template="tokenizer")
