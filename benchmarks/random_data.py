"""Indexed datasets with a sidecar and no text behind them: what the benchmarks of samples, steps and rows read."""

import hashlib
from pathlib import Path


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
    describe(
        prefix,
        num_documents=num_documents,
        num_tokens=int(lengths.sum()),
        vocab_size=mask_id + 1,
        bos_id=1,
        eos_id=2,
        mask_id=mask_id,
    )


def describe(
    prefix: Path,
    *,
    num_documents: int,
    num_tokens: int,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    mask_id: int,
    roles: bool = False,
) -> None:
    """Write the sidecar of files that are there.

    Args:
        prefix: of the dataset, with ids as uint16.
        num_documents: it holds.
        num_tokens: it holds.
        vocab_size: of the tokenizer it claims to be made with.
        bos_id: of that tokenizer.
        eos_id: of that tokenizer.
        mask_id: of that tokenizer.
        roles: it is fine-tuning data, with a dataset of roles beside it.
    """
    from meap_megatron.indexed.sidecar import SFT_FIELDS, Sidecar, TokenizerInfo, write_sidecar

    names = [".bin", ".idx", *([".roles.bin", ".roles.idx"] if roles else [])]
    files = [Path(f"{prefix}{name}").read_bytes() for name in names]
    sizes = [len(content) for content in files]
    tokenizer = TokenizerInfo(
        fingerprint="0" * 64,
        folder=None,
        vocab_size=vocab_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=None,
        mask_id=mask_id,
        mask_token="[MASK]",
    )
    write_sidecar(
        prefix,
        Sidecar(
            kind="sft" if roles else "text",
            content_hash=hashlib.sha256(b"".join(files)).hexdigest(),
            num_documents=num_documents,
            num_tokens=num_tokens,
            bin_bytes=sizes[0],
            idx_bytes=sizes[1],
            dtype="uint16",
            add_bos=False,
            add_eos=False,
            tokenizer=tokenizer,
            libraries={},
            sft=dict.fromkeys(SFT_FIELDS) | {"roles_bytes": sizes[2], "roles_idx_bytes": sizes[3]} if roles else None,
        ),
    )
