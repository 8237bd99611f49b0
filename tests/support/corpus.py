"""Real text and a tokenizer, made from what every Python installation has."""

import json
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


@cache
def library_texts(limit: int | None = None) -> tuple[str, ...]:
    """Return the sources of the standard library's modules, in the order of their paths; at most `limit` characters."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts, size = [], 0
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            texts.append(text)
            size += len(text)
        if limit is not None and size >= limit:
            break
    return tuple(texts)


def write_jsonl(path: Path, texts: tuple[str, ...]) -> Path:
    """Write one JSON line per text under the key "text"."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def write_dataset(root: Path, documents: tuple[str, ...], name: str = "data", **tokenizer: Any) -> Path:
    """Write documents, a byte tokenizer unless there is one, and their dataset; return its prefix."""
    from meap_megatron.cli.main import main

    folder = root / "tokenizer"
    if not folder.exists():
        write_byte_tokenizer(folder, **tokenizer)
    source = write_jsonl(root / f"{name}.jsonl", documents)
    words = ["--tokenizer", str(folder), "--output", str(root / name), "--workers", "1"]
    assert main(["preprocess", "text", str(source), *words]) == 0
    return root / name


def write_byte_tokenizer(
    folder: Path, *, vocab_size: int = 512, texts: tuple[str, ...] = (), adds_bos: bool = True
) -> Path:
    """Train a byte-level BPE and save it as a Hugging Face folder with BOS `<s>` (0) and EOS `</s>` (1)."""
    tokenizer = byte_level(texts or library_texts(300_000), vocab_size=vocab_size, special=("<s>", "</s>"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    return save(opening(tokenizer, "<s>") if adds_bos else tokenizer, folder, **config)


def write_word_tokenizer(folder: Path, words: Sequence[str], *, special: Sequence[str] = (), **config: Any) -> Path:
    """Write a tokenizer that takes each of the words, `<unk>` among them, for one id: its place in the list."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    return save(opening(tokenizer, "<s>") if "<s>" in special else tokenizer, folder, **config)


def byte_level(texts: Sequence[str], *, vocab_size: int, special: Sequence[str] = ()) -> Any:
    """Train a byte-level BPE whose first ids are special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def opening(tokenizer: Any, bos: str) -> Any:
    """Let a tokenizer put BOS before a text, as Llama's."""
    from tokenizers import processors

    special = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=special)
    return tokenizer


def save(tokenizer: Any, folder: Path, **config: Any) -> Path:
    """Save a tokenizer as a Hugging Face folder, without tokenizer_config.json if there is nothing to say in it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
