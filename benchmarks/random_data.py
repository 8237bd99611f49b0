"""Random ids as an indexed dataset with a sidecar: what the benchmarks of samples and steps read."""

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

    from meap_megatron.corpus.sidecar import Sidecar, TokenizerInfo, write_sidecar

    rng = np.random.default_rng(1)
    lengths = rng.integers(shortest, longest, size=num_documents)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for length in lengths.tolist():
        builder.add_document(rng.integers(3, mask_id, size=length), [length])
    builder.finalize(f"{prefix}.idx")
    data = [Path(f"{prefix}{suffix}").read_bytes() for suffix in (".bin", ".idx")]
    tokenizer = TokenizerInfo(
        fingerprint="0" * 64,
        folder=None,
        vocab_size=mask_id + 1,
        bos_id=1,
        eos_id=2,
        pad_id=None,
        mask_id=mask_id,
        mask_token="[MASK]",
    )
    write_sidecar(
        prefix,
        Sidecar(
            kind="text",
            content_hash=hashlib.sha256(b"".join(data)).hexdigest(),
            num_documents=num_documents,
            num_tokens=int(lengths.sum()),
            bin_bytes=len(data[0]),
            idx_bytes=len(data[1]),
            dtype="uint16",
            add_bos=False,
            add_eos=False,
            tokenizer=tokenizer,
            libraries={},
        ),
    )
