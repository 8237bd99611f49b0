"""The tokenizers of Llama-2, Llama-3 and Qwen3: what we make of their files, and of GGUF metadata, gives their ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from meap_megatron.checkpoint.convert.gguf_tokenizer import write_tokenizer
from meap_megatron.checkpoint.convert.tokenizer_check import differences
from meap_megatron.cli.main import main
from meap_megatron.indexed.pair import open_pair
from meap_megatron.tokenizer.byte_lengths import byte_lengths
from meap_megatron.tokenizer.load import load_tokenizer, save_tokenizer
from tests.real.downloads import real
from tests.support.corpus import library_texts
from tests.support.gguf_models import tokenizer_metadata

pytestmark = pytest.mark.real
MASK_IDS = {"llama2": 32_000, "llama3": 128_256, "qwen3": 151_669}
HARD = (
    "def f(x):\n    return  x + 12345  # Größe, 大小\n",
    " a space, \ttabs\t\t and it's   three spaces",
    "\na newline\r\n\r\n\n\n",
    "1234567 8.9 ٣٤٥ ½ 10⁶",
    "e\u0301 \u00e9 🎉👩‍👩‍👧 नमस्ते 안녕 \u200b\ufeff",
    "DON'T can't we'll I'M <tag> </b> http://a.b/c?d=e&f",
)
"""Numbers, spaces, line ends, scripts and accents on which splits before merging differ."""


@pytest.mark.parametrize(("name", "adds_bos"), [("llama2", True), ("llama3", False), ("qwen3", False)])
def test_it_keeps_its_ids_roles_and_template(tmp_path: Path, name: str, adds_bos: bool) -> None:
    loaded = load_tokenizer(real(name))
    save_tokenizer(loaded, tmp_path / "saved")
    assert (loaded.info.mask_id, loaded.adds_bos) == (MASK_IDS[name], adds_bos)
    assert list(differences(real(name), tmp_path / "saved")) == []


@pytest.mark.parametrize("name", MASK_IDS)
def test_preprocessed_text_has_its_ids(tmp_path: Path, name: str) -> None:
    texts = [*HARD, *library_texts(300_000)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    words = ["--tokenizer", str(real(name)), "--output", str(tmp_path / "data"), "--no-bos", "--no-eos"]
    assert main(["preprocess", "text", str(tmp_path / "text.jsonl"), *words]) == 0
    tokenizer = Tokenizer.from_file(str(real(name) / "tokenizer.json"))
    found = open_pair(str(tmp_path / "data"))
    for row, text in zip(found, texts, strict=True):
        assert row.tolist() == tokenizer.encode(text, add_special_tokens=False).ids, text[:80]


@pytest.mark.parametrize("name", MASK_IDS)
def test_the_bytes_of_its_tokens_add_up_to_those_of_the_text(name: str) -> None:
    tokenizer = Tokenizer.from_file(str(real(name) / "tokenizer.json"))
    sizes = byte_lengths(tokenizer)
    for text in (*HARD, *library_texts(300_000)):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
        decoded = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        assert sizes.count(ids, opens=True).sum() == len(decoded.encode()), text[:80]


class Metadata:
    """The metadata of a GGUF file."""

    path = Path("model.gguf")

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)


@pytest.mark.parametrize(("name", "split"), [("llama2", ""), ("llama3", "llama-bpe"), ("qwen3", "qwen2")])
def test_from_gguf_metadata_it_gives_the_same_ids(tmp_path: Path, name: str, split: str) -> None:
    values = tokenizer_metadata(real(name), pre=split, fill=MASK_IDS[name] + 300 * (name == "qwen3"))
    write_tokenizer(Metadata(values), tmp_path)
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(real(name) / "tokenizer.json"))
    for text in (*HARD, *library_texts(200_000), "<|im_start|>user\n<|eot_id|></s><think>"):
        found = ours.encode(text, add_special_tokens=False).ids
        assert found == theirs.encode(text, add_special_tokens=False).ids, text[:80]
        assert ours.decode(found, skip_special_tokens=False) == theirs.decode(found, skip_special_tokens=False)
    assert ours.get_vocab(with_added_tokens=True) == theirs.get_vocab(with_added_tokens=True)
