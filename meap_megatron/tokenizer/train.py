"""Train a byte-level BPE tokenizer with the library tokenizers, and save it as a Hugging Face folder."""

import json
from collections.abc import Iterable
from pathlib import Path

from meap_megatron.atomic import replace_text

BOS, EOS, MASK = "<s>", "</s>", "[MASK]"
SMALLEST = 256 + len((BOS, EOS, MASK))
"""Pieces of a tokenizer that has merged nothing: every byte, and the special tokens."""


def train_tokenizer(texts: Iterable[str], folder: Path, *, vocab_size: int) -> int:
    """Train a byte-level BPE and save it so that `AutoTokenizer.from_pretrained(folder)` loads it.

    Args:
        texts: the corpus.
        folder: is made; gets tokenizer.json and tokenizer_config.json.
        vocab_size: pieces to aim for, BOS, EOS and [MASK] among them.

    Returns:
        The number of pieces; fewer than `vocab_size` if the text is too short to fill it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "mask_token": MASK,
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "tokenizer.json", tokenizer.to_str())
    replace_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    return int(tokenizer.get_vocab_size())
