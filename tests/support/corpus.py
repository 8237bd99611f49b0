"""Real text and a tokenizer, made from what every Python installation has."""

import json
import sysconfig
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
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or library_texts(300_000), trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
