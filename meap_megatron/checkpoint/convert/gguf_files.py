"""Unpack a GGUF file of llama.cpp into a Hugging Face folder: config from its metadata, weights dequantised, tokenizer.

The package gguf reads the file, undoes the quantisation and knows how llama.cpp calls the tensors; one tensor is in memory
at a time. What llama.cpp changed is changed back: the order of rows in queries and keys of the architecture llama, and the
scaled rotary frequencies of Llama 3, which it stores as a tensor.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meap_megatron.checkpoint.convert.convert_settings import SHARD_BYTES
from meap_megatron.checkpoint.convert.families import FAMILIES, hf_shapes
from meap_megatron.checkpoint.convert.gguf_tokenizer import write_tokenizer
from meap_megatron.checkpoint.convert.hf_config import spec_from_config
from meap_megatron.checkpoint.convert.hf_files import INDEX, plan_shards, write_json, write_shard
from meap_megatron.checkpoint.convert.record import side_files
from meap_megatron.checkpoint.convert.rope import LLAMA3
from meap_megatron.errors import UserError, first_line

ENDING = ".gguf"
ROTATED = ("llama", "smollm3")
"""Architectures whose rows of queries and keys llama.cpp stores in pairs."""
ARCHITECTURES = ("llama", "qwen2", "qwen3", "smollm3")
"""llama.cpp's names of the families; Mistral's is llama."""
ROPE_FACTORS = "rope_freqs.weight"
FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
    "expert_count": "num_local_experts",
}
"""Key behind the architecture's name -> field of config.json."""
SCALING = {
    "type": "rope_type",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""Likewise of the scaling of rotary frequencies; other names are the same."""
HARMLESS = {"vocab_size", "rope.dimension_count", "attention.value_length", "tensor_data_layout", "expert_used_count"}


class GgufFile:
    """An open GGUF file.

    Attributes:
        path: of the file.
        tensors: name -> the package's tensor.
        kinds: names of the types in which tensors are stored.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata; the weights stay on the disk.

        Raises:
            UserError: the package is missing, or it is not a whole GGUF file of one model.
        """
        try:
            import gguf
        except ImportError:
            raise UserError(
                "reading a GGUF file needs the package gguf", fix="pip install 'meap-megatron[gguf]'"
            ) from None
        try:
            self.reader = gguf.GGUFReader(path)
        except Exception as error:  # the package reads past the end of a cut file, in any way
            raise UserError(
                f"{path} cannot be read as GGUF ({type(error).__name__}: {first_line(error)})", fix="download it again"
            ) from None
        self.path = path
        self.tensors: dict[str, Any] = {tensor.name: tensor for tensor in self.reader.tensors}
        self.kinds = sorted({tensor.tensor_type.name for tensor in self.reader.tensors if len(tensor.shape) > 1})
        if (kind := self.get("general.type", "model")) != "model":
            raise UserError(f"{path} holds no model: general.type is {kind!r}", fix="name the file of a model")
        if self.get("split.count", 1) > 1:
            raise UserError(
                f"{path} is one of {self.get('split.count')} parts",
                fix="join them (llama.cpp: llama-gguf-split --merge)",
            )
        if self.architecture not in ARCHITECTURES:
            raise UserError(
                f"{path} is of architecture {self.architecture!r}; from GGUF, {', '.join(ARCHITECTURES)} are converted"
            )

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the metadata."""
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return str(self.get("general.architecture"))

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as llama.cpp has it, in float32.

        Raises:
            UserError: the package does not know how it is stored.
        """
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{self.path}: {name} is stored as {tensor.tensor_type.name}, which cannot be undone"
            ) from None
        return torch.from_numpy(np.array(values, dtype=np.float32))

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type that holds all weights as they are: 16 bits where the matrices have them, else float32."""
        half = {"BF16": torch.bfloat16, "F16": torch.float16}
        found = half.get(self.kinds[0], torch.float32) if len(self.kinds) == 1 else torch.float32
        # llama.cpp stores vectors in float32; those of a model in 16 bits fit into these.
        vectors = [
            self.read(name) for name, tensor in self.tensors.items() if len(tensor.shape) == 1 and name != ROPE_FACTORS
        ]
        return found if all(torch.equal(v.to(found).float(), v) for v in vectors) else torch.float32

    def config(self) -> dict[str, Any]:
        """Return config.json; what has no place there keeps llama.cpp's name, so that it is refused by it.

        Raises:
            UserError: the rotary factors are not those of Llama 3.
        """
        prefix = f"{self.architecture}."
        config: dict[str, Any] = {
            "architectures": [FAMILIES[self.architecture].architecture],
            "model_type": self.architecture,
            "hidden_act": "silu",
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        config |= FAMILIES[self.architecture].written
        if (table := self.tensors.get("token_embd.weight")) is not None:
            config["vocab_size"] = int(table.shape[1])
        for key in self.reader.fields:
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or name in HARMLESS or name.startswith("rope.scaling."):
                continue
            value = self.get(key)
            # 1e-05 in float32 is 9.999999747378752e-06.
            config[FIELDS.get(name, key)] = float(str(np.float32(value))) if isinstance(value, float) else value
        config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
        config.setdefault("rope_theta", 10000.0)
        heads, width = config.get("num_attention_heads"), config.get("hidden_size")
        if isinstance(heads, int) and isinstance(width, int) and heads > 0:
            config.setdefault("head_dim", width // heads)
        if (rotated := self.get(f"{prefix}rope.dimension_count")) not in (None, config.get("head_dim")):
            config["partial_rotary_factor"] = rotated / config["head_dim"]
        config |= self._rope(config)
        for role, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            if (number := self.get(f"tokenizer.ggml.{name}_token_id")) is not None:
                config[f"{role}_token_id"] = number
        return config

    def _rope(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the scaling of the rotary embedding, as config.json has it."""
        scaling = f"{self.architecture}.rope.scaling."
        kind = self.get(f"{scaling}type", "none")
        if ROPE_FACTORS in self.tensors:
            factors = self.read(ROPE_FACTORS)
            factor = float(factors.max())
            if not torch.allclose(factors, llama3_factors(config, factor), rtol=1e-3):
                raise UserError(
                    f"{self.path}: {ROPE_FACTORS} scales rotary frequencies in another way than Llama 3 does"
                )
            return {"rope_scaling": {"rope_type": "llama3", "factor": factor, **LLAMA3}}
        if kind == "none":
            return {}
        keys = [key.removeprefix(scaling) for key in self.reader.fields if key.startswith(scaling)]
        return {"rope_scaling": {SCALING.get(key, key): self.get(scaling + key) for key in keys if key != "finetuned"}}

    def hf_tensor(self, name: str, *, hf: str, config: dict[str, Any]) -> torch.Tensor:
        """Return a tensor as Hugging Face has it."""
        tensor = self.read(name)
        if self.architecture in ROTATED and ".self_attn.q_proj." in hf:
            tensor = unpaired(tensor, heads=config["num_attention_heads"])
        if self.architecture in ROTATED and ".self_attn.k_proj." in hf:
            tensor = unpaired(tensor, heads=config["num_key_value_heads"])
        return tensor.to(self.dtype)


def unpaired(tensor: torch.Tensor, *, heads: int) -> torch.Tensor:
    """Return the rows of each head with first halves of the rotated pairs before second ones, which llama.cpp alternates."""
    rows = tensor.shape[0]
    return tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def llama3_factors(config: dict[str, Any], factor: float) -> torch.Tensor:
    """Return by how much Llama 3 slows each rotary frequency, float32 [head_dim / 2]."""
    low, high, length = (
        LLAMA3["low_freq_factor"],
        LLAMA3["high_freq_factor"],
        LLAMA3["original_max_position_embeddings"],
    )
    steps = torch.arange(0, config["head_dim"], 2, dtype=torch.float64) / config["head_dim"]
    turns = length / (2 * torch.pi * config["rope_theta"] ** steps)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()


def names_of(opened: GgufFile, config: dict[str, Any], *, allowed: tuple[str, ...]) -> dict[str, str]:
    """Return Hugging Face's name -> llama.cpp's name of every tensor, after comparing them with the model's.

    Raises:
        UserError: the model is not converted, or a tensor is missing, unexpected or of another shape.
    """
    import gguf

    spec = spec_from_config(config, source=str(opened.path), allowed=allowed)
    shapes = hf_shapes(spec)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == opened.architecture)
    table = gguf.get_tensor_name_map(kind, spec.num_layers)
    names: dict[str, str] = {}
    for hf, shape in shapes.items():
        name = table.get_name(hf, (".weight", ".bias"))
        if name not in opened.tensors:
            raise UserError(f"{opened.path} lacks {name or hf}, which a {spec.family} model of this size has")
        found = tuple(int(size) for size in reversed(opened.tensors[name].shape))
        if found != shape:
            raise UserError(f"{opened.path}: {name} has shape {list(found)}, its metadata say {list(shape)}")
        names[hf] = name
    if surplus := sorted(set(opened.tensors) - set(names.values()) - {ROPE_FACTORS}):
        raise UserError(
            f"{opened.path} holds {surplus[0]} ({len(surplus)} such), for which {spec.family} models have no place"
        )
    return names


def unpack(path: Path, folder: Path, *, tokenizer: Path | None = None, allowed: tuple[str, ...] = ()) -> str:
    """Write a GGUF file as a Hugging Face folder, and return one line about how the weights were stored.

    Args:
        tokenizer: folder to take the tokenizer from; None: the file's metadata.
        allowed: unknown config fields that do not matter.

    Raises:
        UserError: it cannot be converted.
    """
    opened = GgufFile(path)
    config = opened.config()
    names = names_of(opened, config, allowed=allowed)
    if tokenizer is None:
        write_tokenizer(opened, folder)
    elif tokenizer.is_dir():
        for file in side_files(tokenizer):
            shutil.copyfile(file, folder / file.name)
    ends = {name: value for name, value in config.items() if name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (("config.json", config), ("generation_config.json", ends)):
        write_json(folder / name, content)
    shapes = {hf: tuple(int(size) for size in reversed(opened.tensors[name].shape)) for hf, name in names.items()}
    sizes = {hf: torch.Size(shape).numel() * opened.dtype.itemsize for hf, shape in shapes.items()}
    files = plan_shards(sizes, limit=SHARD_BYTES)
    for shard, tensors in files.items():
        write_shard(
            folder / shard,
            {hf: (opened.dtype, shapes[hf]) for hf in tensors},
            lambda hf: opened.hf_tensor(names[hf], hf=hf, config=config),
            metadata={"format": "pt"},
        )
    if len(files) > 1:
        index = {hf: shard for shard, tensors in files.items() for hf in tensors}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index})
    stored, dtype = ", ".join(opened.kinds), config["dtype"]
    exact = {"F32", "F16", "BF16"} >= set(opened.kinds)
    return f"{path.name}: {stored} unpacked to {dtype}" + (
        "" if exact else "; the rounding of its quantisation stays in the weights"
    )


@contextlib.contextmanager
def hf_source(
    path: Path, *, beside: Path, tokenizer: Path | None = None, allowed: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Yield a Hugging Face folder: a folder itself, or a GGUF file unpacked into a temporary one.

    Args:
        beside: the temporary folder is made on the same disk.
        tokenizer: folder to take the tokenizer of a GGUF file from.
        allowed: unknown config fields that do not matter.

    Raises:
        UserError: the file cannot be converted.
    """
    if not (path.is_file() and path.name.endswith(ENDING)):
        yield path
        return
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}.gguf-", dir=beside.parent) as name:
        folder = Path(name) / path.name.removesuffix(ENDING)
        folder.mkdir()
        print(unpack(path, folder, tokenizer=tokenizer, allowed=allowed), file=sys.stderr, flush=True)
        yield folder
