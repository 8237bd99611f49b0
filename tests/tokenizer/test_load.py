import json
import shutil
from pathlib import Path

import pytest

from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import load_tokenizer, save_tokenizer


def test_mask_is_added_with_the_next_free_id(word_tokenizer: Path, llama_model: Path) -> None:
    assert load_tokenizer(word_tokenizer).info.mask_id == 7
    info = load_tokenizer(llama_model).info
    assert (info.mask_id, info.vocab_size, info.bos_id, info.eos_id) == (32000, 32001, 1, 2)  # as the official code


def test_a_mask_token_that_exists_keeps_its_id(word_tokenizer: Path, tmp_path: Path) -> None:
    info = load_tokenizer(word_tokenizer, mask_token="d").info
    assert (info.mask_id, info.vocab_size, info.mask_token) == (6, 7, "d")
    with pytest.raises(UserError, match="is its BOS"):
        load_tokenizer(word_tokenizer, mask_token="</s>")
    with pytest.raises(UserError, match="has no visible character"):
        load_tokenizer(word_tokenizer, mask_token="")


def test_the_saved_tokenizer_is_the_same_tokenizer(word_tokenizer: Path, llama_model: Path, tmp_path: Path) -> None:
    for index, source in enumerate((word_tokenizer, word_tokenizer / "tokenizer.json", llama_model)):
        tokenizer = load_tokenizer(source)
        save_tokenizer(tokenizer, tmp_path / str(index))
        again = load_tokenizer(tmp_path / str(index))
        assert again.info == tokenizer.info
        assert again.definition == tokenizer.definition


def test_transformers_loads_the_saved_tokenizer_with_the_same_ids(llama_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(load_tokenizer(llama_model), tmp_path / "t")
    loaded = AutoTokenizer.from_pretrained(str(tmp_path / "t"))
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.mask_token_id, len(loaded)) == (1, 2, 32000, 32001)
    import sentencepiece

    text = "Hello,  world\n\tx é 漢🎉"
    ids = sentencepiece.SentencePieceProcessor(model_file=str(llama_model)).encode(text)
    assert loaded.encode(text, add_special_tokens=False) == ids
    assert loaded.encode(text) == [1, *ids]
    assert loaded.decode(ids) == text


def test_the_fingerprint_follows_the_content_and_not_the_path(word_tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(word_tokenizer, tmp_path / "moved")
    original = load_tokenizer(word_tokenizer).info.fingerprint
    assert load_tokenizer(tmp_path / "moved").info.fingerprint == original
    path = tmp_path / "moved" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["a"], content["model"]["vocab"]["b"] = 4, 3
    path.write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / "moved").info.fingerprint != original
    assert load_tokenizer(word_tokenizer, mask_token="[X]").info.fingerprint != original


def test_bos_and_eos_come_from_the_caller_then_the_config_then_the_usual_names(word_tokenizer: Path) -> None:
    config = word_tokenizer / "tokenizer_config.json"
    config.write_text("{}")
    assert load_tokenizer(word_tokenizer).info.bos_id == 1  # "<s>" is a usual name
    config.write_text('{"bos_token": null, "eos_token": {"content": "c"}}')
    info = load_tokenizer(word_tokenizer).info
    assert (info.bos_id, info.eos_id) == (None, 5)
    info = load_tokenizer(word_tokenizer, bos_token="a", eos_token="b").info
    assert (info.bos_id, info.eos_id) == (3, 4)
    with pytest.raises(UserError, match="--eos-token 'zz' is not in the vocabulary"):
        load_tokenizer(word_tokenizer, eos_token="zz")


def test_a_folder_of_vocab_and_merges_loads_through_transformers(bpe_tokenizer: Path, tmp_path: Path) -> None:
    model = json.loads((bpe_tokenizer / "tokenizer.json").read_text())["model"]
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "</s>"})
    )
    info = load_tokenizer(folder).info
    assert (info.bos_id, info.eos_id, info.mask_id) == (0, 1, 600)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no tokenizer.json"),
        (lambda folder: (folder.mkdir(), (folder / "tokenizer.json").write_text("{}")), "is not a tokenizer.json"),
        (lambda folder: (folder.mkdir(), (folder / "x.model").write_bytes(b"\xff" * 9)), "not a SentencePiece model"),
        (lambda folder: folder.write_bytes(b"\xff\xfe"), "cannot be read as text"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "t")
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / "t")
