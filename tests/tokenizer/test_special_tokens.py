"""Ids, BOS and null roles are those of `transformers.AutoTokenizer` on the original folder, before and after saving."""

import json
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import load_tokenizer, save_tokenizer
from tests.corpus.corpus_samples import config, documents, write_jsonl

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
TEXTS = ("a<plan>b<pad></s>", " a", "<s>x</s>", "a<plan>b <extra>", "x\n\n 12 345")


def variant(source: Path, folder: Path, settings: dict[str, Any], **files: Any) -> Path:
    """Copy tokenizer.json beside another tokenizer_config.json and other files; `x__y` writes x.y."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(content))
    return folder


QWEN_LIKE = {"bos_token": None, "eos_token": "</s>", "unk_token": None, "tokenizer_class": "Qwen2Tokenizer"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a token of added_tokens.json": ({**QWEN_LIKE, "pad_token": "</s>"}, {"added_tokens__json": {"<plan>": 600}}),
    "a pad token named only in the configuration": ({**QWEN_LIKE, "pad_token": "<pad>"}, {}),
    "additional special tokens named only there": (
        {**QWEN_LIKE, "pad_token": "</s>", "additional_special_tokens": ["<plan>", "<extra>"]},
        {},
    ),
    "extra special tokens with names": (
        {"eos_token": "</s>", "bos_token": None, "extra_special_tokens": {"image_token": "<plan>"}},
        {},
    ),
    "a special token of special_tokens_map.json": (
        {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"},
        {"special_tokens_map__json": {"pad_token": "<pad>", "sep_token": {"content": "<plan>", "lstrip": True}}},
    ),
    "added_tokens_decoder": (
        {
            "eos_token": "</s>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {
                "600": {"content": "<plan>", "special": False, "normalized": False},
                "601": {"content": "<extra>", "special": True, "normalized": False},
            },
        },
        {},
    ),
    "tokens of the class": ({"eos_token": "</s>", "tokenizer_class": "GPT2Tokenizer"}, {}),
    "no token named": ({"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_token_of_the_original_keeps_its_id(name: str, bpe_tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    settings, files = CASES[name]
    original = variant(bpe_tokenizer, tmp_path / "original", settings, **files)
    loaded = load_tokenizer(original)
    save_tokenizer(loaded, tmp_path / "saved")
    before, after = (AutoTokenizer.from_pretrained(str(folder)) for folder in (original, tmp_path / "saved"))
    assert {**after.get_vocab(), **before.get_vocab()} == after.get_vocab()
    assert loaded.info.mask_id == len(before) == after.mask_token_id
    assert {role: getattr(after, role) for role in ROLES} == {role: getattr(before, role) for role in ROLES}
    assert set(after.all_special_ids) == {*before.all_special_ids, loaded.info.mask_id}
    # Qwen2Tokenizer cuts words by its own rule, not by the one of this tokenizer.json.
    for text in TEXTS[:1] if "Qwen2" in settings.get("tokenizer_class", "") else TEXTS:
        assert after.encode(text) == before.encode(text)
    assert (before.encode("a")[0] == before.bos_token_id) == loaded.adds_bos
    again = load_tokenizer(tmp_path / "saved")
    assert (again.info, again.adds_bos, again.config) == (loaded.info, loaded.adds_bos, loaded.config)


def test_a_null_bos_stays_null_though_the_vocabulary_has_a_usual_name(bpe_tokenizer: Path, tmp_path: Path) -> None:
    """As Qwen's: `<s>` is in the vocabulary, and the configuration says that there is no BOS."""
    source = variant(bpe_tokenizer, tmp_path / "qwen", {"bos_token": None, "eos_token": "</s>"})
    save_tokenizer(load_tokenizer(source), tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").info.bos_id is None
    preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["hello"]), tmp_path / "out", tmp_path / "saved"))
    (ids,) = documents(tmp_path / "out")
    assert ids[0] != 0
    assert ids[-1] == 1


def test_a_usual_name_is_taken_only_where_it_is_a_special_token(bpe_tokenizer: Path, tmp_path: Path) -> None:
    content = json.loads((bpe_tokenizer / "tokenizer.json").read_text())
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(content))
    assert load_tokenizer(path).info.bos_id == 0
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<s>"]
    content["post_processor"] = None
    path.write_text(json.dumps(content))
    assert load_tokenizer(path).info.bos_id is None


def test_the_mask_takes_no_id_that_the_model_names(bpe_tokenizer: Path, tmp_path: Path) -> None:
    settings = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    model = {
        "pad_token_id": 600,
        "eos_token_id": [1, 602],
        "vision_config": {"image_token_index": 601},
        "vocab_size": 640,
    }
    source = variant(bpe_tokenizer, tmp_path / "t", settings, config__json=model, generation_config__json={"x": 603})
    loaded = load_tokenizer(source)
    assert (loaded.info.mask_id, loaded.info.vocab_size) == (603, 604)
    save_tokenizer(loaded, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").info == loaded.info


def test_the_mask_of_a_vocabulary_with_holes_gets_an_id_of_its_own(word_tokenizer: Path, tmp_path: Path) -> None:
    path = word_tokenizer / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["d"] = 7  # 6 is free, and the library would give 7 to the next token
    path.write_text(json.dumps(content))
    loaded = load_tokenizer(word_tokenizer)
    assert (loaded.info.mask_id, loaded.info.vocab_size) == (8, 9)
    save_tokenizer(loaded, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").info == loaded.info
    preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["d a"]), tmp_path / "out", word_tokenizer))
    assert documents(tmp_path / "out") == [[1, 7, 3, 2]]


def test_tokens_that_transformers_cannot_load_are_named(bpe_tokenizer: Path, tmp_path: Path) -> None:
    settings = {"eos_token": "</s>", "pad_token": "<pad>", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    with pytest.raises(UserError, match=r"tokens '<pad>' are not in its tokenizer\.json"):
        load_tokenizer(variant(bpe_tokenizer, tmp_path / "t", settings))


@pytest.fixture
def borderless(word_tokenizer: Path) -> Path:
    """The same words, but no BOS before a text, as SmolLM2's and GPT-2's."""
    path = word_tokenizer / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = None
    path.write_text(json.dumps(content))
    return word_tokenizer


@pytest.mark.parametrize(
    ("names", "options", "ids", "note"),
    [
        ({"bos_token": "<s>"}, {}, [3, 2], "names the BOS token '<s>' but puts none before a text"),
        ({"bos_token": "<s>"}, {"add_bos": True}, [1, 3, 2], ""),
        ({"bos_token": "<s>"}, {"add_bos": False}, [3, 2], ""),
        ({"bos_token": "<s>", "add_bos_token": True}, {}, [3, 2], "puts none before a text"),
        ({"bos_token": None}, {}, [3, 2], ""),
        ({"bos_token": None}, {"bos_token": "b"}, [4, 3, 2], ""),
        ({"bos_token": "</s>"}, {}, [3, 2], "puts none before a text"),
        ({"bos_token": "</s>"}, {"add_bos": True}, [2, 3, 2], ""),
        ({"bos_token": "</s>"}, {"add_bos": True, "add_eos": False}, [2, 3], ""),
    ],
)
def test_bos_follows_the_tokenizer_unless_told_otherwise(
    borderless: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: dict[str, Any],
    options: dict[str, Any],
    ids: list[int],
    note: str,
) -> None:
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": None, **names}
    (borderless / "tokenizer_config.json").write_text(json.dumps(settings))
    sidecar = preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["a"]), tmp_path / "out", borderless, **options))
    assert documents(tmp_path / "out") == [ids]
    assert sidecar.add_bos == (len(ids) == 3 or options.get("add_eos") is False)
    shown = capsys.readouterr().err
    assert note in shown
    assert ("--add-bos" in shown) == bool(note)


def test_one_token_that_is_bos_and_eos_stands_once_at_a_border(
    word_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As OPT's: the tokenizer puts `</s>` before a text, and it ends one too."""
    from meap_megatron.checkpoint.convert.provenance import begins_with_bos

    path = word_tokenizer / "tokenizer.json"
    content = json.loads(path.read_text())
    for name in ("single", "pair"):
        for part in content["post_processor"][name]:
            if "SpecialToken" in part:
                part["SpecialToken"]["id"] = "</s>"
    content["post_processor"]["special_tokens"] = {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
    path.write_text(json.dumps(content))
    (word_tokenizer / "tokenizer_config.json").write_text('{"bos_token": "</s>", "eos_token": "</s>"}')
    source = write_jsonl(tmp_path / "in.jsonl", ["a", "b"])
    sidecar = preprocess(config(source, tmp_path / "out", word_tokenizer))
    assert documents(tmp_path / "out") == [[3, 2], [4, 2]]
    assert "is both BOS and EOS" in capsys.readouterr().err
    # A text of the stream follows that token all the same, and so should a prompt.
    assert begins_with_bos(sidecar, tmp_path / "out.tokenizer")
    preprocess(config(source, tmp_path / "twice", word_tokenizer, add_bos=True))
    assert documents(tmp_path / "twice") == [[2, 3, 2], [2, 4, 2]]


def test_bos_that_is_asked_for_and_absent_is_refused(borderless: Path, tmp_path: Path) -> None:
    (borderless / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "</s>"}')
    with pytest.raises(UserError, match="--add-bos: tokenizer .* has no BOS token; name one with --bos-token"):
        preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["a"]), tmp_path / "out", borderless, add_bos=True))


@pytest.mark.parametrize(("stated", "ids"), [(True, [1, 29874, 2]), (False, [29874, 2]), (None, [1, 29874, 2])])
def test_a_sentencepiece_folder_follows_its_configuration(
    llama_model: Path, tmp_path: Path, stated: bool | None, ids: list[int]
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(llama_model.read_bytes())
    if stated is not None:
        settings = {"add_bos_token": stated, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": None}))
    preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["a"]), tmp_path / "out", folder, encoder="tokenizers"))
    (found,) = documents(tmp_path / "out")
    assert (len(found), found[0] == 1) == (len(ids), ids[0] == 1)


@pytest.mark.parametrize(
    ("file", "change", "found"),
    [
        (
            "tokenizer.json",
            lambda content: content["model"]["vocab"].update(a=4, b=3),
            "the token 'b' has id 3, it was 4",
        ),
        ("tokenizer_config.json", lambda content: content.update(bos_token="<s>"), "bos_token is '<s>', it was None"),
        (
            "tokenizer_config.json",
            lambda content: content.update(chat_template="{{ 1 }}"),
            "the chat template is another",
        ),
        (
            "tokenizer.json",
            lambda content: content.update(post_processor=None),
            r"'a' has the ids \[3\], it had \[1, 3\]",
        ),
    ],
)
def test_a_saved_tokenizer_is_compared_with_the_original(
    word_tokenizer: Path, tmp_path: Path, file: str, change: Any, found: str
) -> None:
    import re

    from meap_megatron.checkpoint.convert.tokenizer_check import differences

    (word_tokenizer / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "</s>"}')
    save_tokenizer(load_tokenizer(word_tokenizer), tmp_path / "saved")
    assert list(differences(word_tokenizer, tmp_path / "saved")) == []
    content = json.loads((tmp_path / "saved" / file).read_text())
    change(content)
    (tmp_path / "saved" / file).write_text(json.dumps(content))
    assert re.search(found, "; ".join(differences(word_tokenizer, tmp_path / "saved")))
