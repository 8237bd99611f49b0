"""Tiny random models of every family, as folders that transformers wrote."""

from pathlib import Path
from typing import Any

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}  # SmolLM3's own are not in so small a vocabulary
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 8.0,  # 24 would give the same whole dimensions as 32
    "attention_factor": 1.2,
    "rope_theta": 1000000.0,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3_ROPE, "max_position_embeddings": 131072}),
    "llama3-tied": (
        "Llama",
        {
            "rope_parameters": LLAMA3_ROPE,
            "tie_word_embeddings": True,
            "head_dim": 32,
            "max_position_embeddings": 16384,
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    # A head of its own size, so that heads x size is not the width.
    "qwen3": ("Qwen3", {"head_dim": 32, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    "qwen3-yarn": (
        "Qwen3",
        {"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": YARN, "max_position_embeddings": 8192},
    ),
    "smollm3": ("SmolLM3", {**TOKENS, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}),
    "smollm3-untied": (
        "SmolLM3",
        {
            **TOKENS,
            "tie_word_embeddings": False,
            "no_rope_layers": [1, 0, 0, 1],
            "rope_parameters": {"rope_theta": 1e5, "rope_type": "linear", "factor": 4.0},
        },
    ),
}
"""Name -> (class of transformers, config fields beside `SIZES`)."""


def write_model(folder: Path, name: str, *, vocab_size: int = 512, dtype: str = "float32", **changes: Any) -> Path:
    """Write a random model whose biases, norm gains and logits are not those of an untrained one."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    kind, fields = MODELS[name]
    shards = changes.pop("max_shard_size", "50GB")
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **fields, "vocab_size": vocab_size, **changes})
    torch.manual_seed(7)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norm gains around 1, biases around 0, all else wide enough for logits that differ.
            parameter += torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.08)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)
    return folder
