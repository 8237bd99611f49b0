"""Tiny models as GGUF files, written with llama.cpp's own package and its rules."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5


def paired(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows of queries or keys as llama.cpp orders them for the architecture llama."""
    rows = tensor.shape[0]
    return tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def write_gguf(path: Path, source: Path, *, kind: str = "F32", **changes: Any) -> Path:
    """Write a Hugging Face folder with its tokenizer as a GGUF file.

    Args:
        path: of the file.
        source: the folder.
        kind: type of the matrices.
        changes: further metadata, over those of the model; None leaves a key out.
    """
    config = json.loads((source / "config.json").read_text())
    arch = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, arch)
    rope = config.get("rope_parameters") or {}
    settings: dict[str, Any] = {
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": config["num_attention_heads"],
        f"{arch}.attention.head_count_kv": config["num_key_value_heads"],
        f"{arch}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{arch}.rope.freq_base": float(rope.get("rope_theta", 10000.0)),
        f"{arch}.vocab_size": config["vocab_size"],
    }
    if (dim := config.get("head_dim")) and dim != config["hidden_size"] // config["num_attention_heads"]:
        settings |= {f"{arch}.attention.key_length": dim, f"{arch}.attention.value_length": dim}
    if rope.get("rope_type") == "yarn":
        settings |= {
            f"{arch}.rope.scaling.type": "yarn",
            f"{arch}.rope.scaling.factor": rope["factor"],
            f"{arch}.rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            f"{arch}.rope.scaling.yarn_beta_fast": rope["beta_fast"],
        }
    settings |= tokenizer_metadata(source) | changes
    for key, value in settings.items():
        if value is not None:
            add(writer, key, value)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    table = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), config["num_hidden_layers"]
    )
    for name, tensor in load_file(source / "model.safetensors").items():
        if arch in ("llama", "smollm3") and ".q_proj." in name:
            tensor = paired(tensor, config["num_attention_heads"])
        if arch in ("llama", "smollm3") and ".k_proj." in name:
            tensor = paired(tensor, config["num_key_value_heads"])
        stored = gguf.GGMLQuantizationType[kind if tensor.dim() > 1 else "F32"]
        data = gguf.quants.quantize(tensor.float().contiguous().numpy(), stored)
        writer.add_tensor(str(table.get_name(name, (".weight", ".bias"))), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors(config: dict[str, Any]) -> np.ndarray:
    """Return by how much transformers slows each rotary frequency, as llama.cpp stores it."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    own = LlamaConfig(**config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](own, torch.device("cpu"))
    theta = config["rope_parameters"]["rope_theta"]
    plain = 1.0 / theta ** (torch.arange(0, len(scaled) * 2, 2).float() / (len(scaled) * 2))
    return (plain / scaled).float().numpy()


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a value of any type."""
    kinds: dict[type, Any] = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds[str] = writer.add_string
    kinds.get(type(value), writer.add_array)(key, value)


def tokenizer_metadata(source: Path, *, pre: str = "gpt-2", fill: int = 0) -> dict[str, Any]:
    """Return the metadata of a tokenizer as llama.cpp's converter writes them.

    Args:
        source: a folder with tokenizer.json.
        pre: name of the way text is split before merging.
        fill: ids up to here get tokens that are not used.
    """
    if not (source / "tokenizer.json").is_file():
        return {}
    content = json.loads((source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    vocab = dict(content["model"]["vocab"])
    kinds = dict.fromkeys(vocab.values(), NORMAL)
    for token in content["added_tokens"]:
        vocab[token["content"]] = token["id"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    tokens = {number: token for token, number in vocab.items()}
    size = max(max(tokens) + 1, fill)
    found: dict[str, Any] = {
        "tokenizer.ggml.tokens": [tokens.get(number, f"[PAD{number}]") for number in range(size)],
        "tokenizer.ggml.token_type": [int(kinds.get(number, UNUSED)) for number in range(size)],
    }
    if content["model"].get("byte_fallback"):
        names = [tokens[number] for number in range(size)]
        found["tokenizer.ggml.token_type"] = [
            6 if name.startswith("<0x") and len(name) == 6 else UNKNOWN if name == "<unk>" else kinds[number]
            for number, name in enumerate(names)
        ]
        # The scores of a SentencePiece model order its merges.
        ranks: dict[str, float] = {}
        for rank, pair in enumerate(content["model"]["merges"]):
            ranks.setdefault("".join(pair) if isinstance(pair, list) else pair.replace(" ", ""), float(-rank))
        found["tokenizer.ggml.scores"] = [ranks.get(name, 0.0) for name in names]
        found["tokenizer.ggml.model"] = "llama"
    else:
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]]
        found |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges}
    for role, name in (("bos_token", "bos"), ("eos_token", "eos")):
        if config.get(role) in vocab:
            found[f"tokenizer.ggml.{name}_token_id"] = vocab[config[role]]
    if config.get("chat_template"):
        found["tokenizer.chat_template"] = config["chat_template"]
    processor = json.dumps(content.get("post_processor"))
    found["tokenizer.ggml.add_bos_token"] = (
        "TemplateProcessing" in processor and str(config.get("bos_token")) in processor
    )
    return found
