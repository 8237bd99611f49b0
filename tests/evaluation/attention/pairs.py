"""Pairs of tiny models of one tokenizer, for the attention suites."""

import shutil
from pathlib import Path
from typing import Any

from tests.support.hf_models import write_model

VOCABULARY = 544
"""Rows of the models: more than the tokenizer's 513 ids, as in training."""


def write_tokenizer(folder: Path, source: Path) -> Path:
    """Write a tokenizer that knows [MASK], as `meap preprocess` saves it and the export copies it."""
    from meap_megatron.tokenizer.load import load_tokenizer, save_tokenizer

    save_tokenizer(load_tokenizer(source), folder)
    return folder


def write_arm(folder: Path, tokenizer: Path, *, seed: int, name: str = "llama3", **changes: Any) -> Path:
    """Write a random model with a tokenizer; different seeds give different models."""
    import torch
    from transformers import AutoModelForCausalLM

    fields = {"max_position_embeddings": 2048, "num_hidden_layers": 2, "vocab_size": VOCABULARY, **changes}
    write_model(folder, name, **fields)
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    return folder
