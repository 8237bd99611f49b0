"""What `meap convert import` and `export` are asked for: a field made by `setting` is an option too. Without torch."""

from dataclasses import dataclass
from pathlib import Path

from meap_megatron.checkpoint.convert.families import FAMILIES
from meap_megatron.declared import setting

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Of an import."""

    source: Path
    """The Hugging Face folder."""
    origin: Path | None = None
    """The GGUF file that it was unpacked from; None: itself."""
    add_mask_token: bool = setting(False, "add [MASK] to the tokenizer, the embedding and the head")
    mask_token: str = setting("[MASK]", "its text (default: [MASK])")
    mask_token_init: str = setting(
        "mean",
        "its row: mean of all rows (default), random with their mean and deviation, or a copy of token X's",
        metavar="mean|random|token:X",
    )
    seed: int = setting(1234, "of a random row")
    tokenizer: Path | None = setting(None, "tokenizer folder (default: HF_DIR)")
    multiple: int = setting(
        64,
        "add rows until their number is a multiple of N (default: 64); rows are never taken away",
        flag="make_vocab_size_divisible_by",
        metavar="N",
    )
    tensor_parallel: int = setting(
        1, "refuse the model if N ranks cannot share it", flag="tensor_model_parallel_size", metavar="N"
    )
    pipeline_parallel: int = setting(
        1, "refuse the model if N stages cannot", flag="pipeline_model_parallel_size", metavar="N"
    )
    ignore_adapter: bool = setting(False, "convert the weights alone where a LoRA adapter is beside them")
    allowed_fields: tuple[str, ...] = ()
    """Unknown config fields that do not matter."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Of an export."""

    checkpoint: Path
    """A save folder, an import, or one iter_* folder."""
    tokenizer: Path | None = setting(None, "tokenizer folder (default: that of the data)")
    data: str | None = setting(None, "training data (default: as the run names it)", metavar="PREFIX")
    family: str | None = setting(None, f"{', '.join(FAMILIES)} (default: that of the import, else by its parts)")
    rows: str = setting(
        "tokenizer",
        "rows of the vocabulary: those of the tokenizer and of the imported model (default), or all that are stored",
        choices=("tokenizer", "model"),
    )
    dtype: str | None = setting(None, "default: as stored", choices=("float32", "bfloat16", "float16"))
    like: Path | None = setting(None, "import whose config and files to restore", metavar="IMPORT")
    shard_bytes: int = SHARD_BYTES
    """Size of one file where the original division is not known."""
