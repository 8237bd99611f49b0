"""Indexed datasets with a sidecar and no text behind them: what the benchmarks read."""

from pathlib import Path
from typing import Any


def tokenizer_info(*, mask_id: int, vocab_size: int, bos_id: int = 1, eos_id: int = 2) -> Any:
    """Return the identity of a tokenizer that does not exist."""
    from meap_megatron.indexed.sidecar import TokenizerInfo

    return TokenizerInfo(
        fingerprint="0" * 64,
        folder=None,
        vocab_size=vocab_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=None,
        mask_id=mask_id,
        mask_token="[MASK]",
    )


def write_data(prefix: Path, *, num_documents: int, shortest: int, longest: int, mask_id: int) -> None:
    """Write documents of ids 3 to `mask_id` - 1; `mask_id`, the last id of the vocabulary, is `[MASK]`.

    Args:
        prefix: of the dataset.
        num_documents: how many; always the same ones.
        shortest: tokens of a document at least.
        longest: tokens that no document reaches.
        mask_id: at most 65,535.
    """
    import numpy as np
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    rng = np.random.default_rng(1)
    lengths = rng.integers(shortest, longest, size=num_documents)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for length in lengths.tolist():
        builder.add_document(rng.integers(3, mask_id, size=length), [length])
    builder.finalize(f"{prefix}.idx")
    info = tokenizer_info(mask_id=mask_id, vocab_size=mask_id + 1)
    describe(prefix, num_documents=num_documents, num_tokens=int(lengths.sum()), tokenizer=info)


def describe(prefix: Path, *, num_documents: int, num_tokens: int, tokenizer: Any) -> None:
    """Write the sidecar of files of uint16 ids; a content hash is made up, and roles are described if they are there."""
    from meap_megatron.indexed.sidecar import SFT_FIELDS, Sidecar, write_sidecar

    sizes = {
        name: path.stat().st_size
        for name in (".bin", ".idx", ".roles.bin", ".roles.idx")
        if (path := Path(f"{prefix}{name}")).exists()
    }
    sft = None
    if ".roles.bin" in sizes:
        sft = dict.fromkeys(SFT_FIELDS) | {
            "multi_turn": "history",
            "over_long": "truncate",
            "roles_bytes": sizes[".roles.bin"],
            "roles_idx_bytes": sizes[".roles.idx"],
        }
    sidecar = Sidecar(
        kind="text" if sft is None else "sft",
        content_hash=prefix.name.ljust(64, "0"),
        num_documents=num_documents,
        num_tokens=num_tokens,
        bin_bytes=sizes[".bin"],
        idx_bytes=sizes[".idx"],
        dtype="uint16",
        add_bos=False,
        add_eos=False,
        tokenizer=tokenizer,
        libraries={},
        sft=sft,
    )
    write_sidecar(prefix, sidecar)
