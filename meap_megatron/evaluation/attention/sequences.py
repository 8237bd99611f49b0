"""The sequences of the attention analysis: blocks of tokens packed as in pre-training, and which positions are masked.

A block is T + 1 consecutive tokens, blocks follow one another without overlap, and the first T are the input; documents
are not kept apart. The blocks come from an indexed dataset (`meap preprocess text`) or from text.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.evaluation.retrieval.haystack import read_essays
from meap_megatron.indexed.pair import open_pair
from meap_megatron.indexed.sidecar import check_prefix, idx_path
from meap_megatron.masking import mask_positions


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """All tokens, one after the other."""

    tokens: NDArray[Any]
    """Integers [num_tokens]."""
    source: dict[str, Any]
    """Kind, hash and size, for the results document."""

    def num_blocks(self, length: int) -> int:
        """Return how many blocks of this length there are."""
        return len(self.tokens) // (length + 1)

    def block(self, index: int, *, length: int) -> NDArray[np.int64]:
        """Return the input tokens of one block: int64[length]."""
        start = index * (length + 1)
        return np.asarray(self.tokens[start : start + length], dtype=np.int64)


def source_of(path: str) -> dict[str, Any]:
    """Return kind and content hash of the data without reading more than that takes.

    Raises:
        UserError: nothing usable is there.
    """
    if idx_path(path).is_file():
        sidecar = check_prefix(path)
        if sidecar.kind != "text":
            raise UserError(f"{path} holds {sidecar.kind!r} data", fix="give a dataset of 'meap preprocess text'")
        return {"kind": "indexed dataset", "sha256": sidecar.content_hash}
    texts = read_texts(path)
    return {"kind": "text", "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()}


@lru_cache(maxsize=2)
def read_texts(path: str) -> tuple[str, ...]:
    """Return the documents of a .txt file, of a folder of .txt files, or of a .jsonl file with key `text`.

    Raises:
        UserError: there are none.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(
            f"{path} is neither an indexed dataset ({idx_path(path)} is absent) nor a text file or folder (--text)"
        )
    if place.is_file() and place.suffix != ".jsonl":
        try:
            text = place.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error})", fix="give a .txt or .jsonl file") from None
        if not text.strip():
            raise UserError(f"{path} holds no text")
        return (text,)
    return read_essays(place)


def open_stream(path: str, *, tokenizer: Any, add_bos: bool, fingerprint: str | None) -> Stream:
    """Open the data as one stream of tokens.

    Args:
        path: prefix of an indexed dataset, or text.
        tokenizer: of the models; encodes text, each document between BOS (if `add_bos`) and EOS (if there is one).
        add_bos: how documents began in training; for text.
        fingerprint: of the models' tokenizer, as sidecars hold it.

    Raises:
        UserError: the data cannot be read, or was made with another tokenizer.
    """
    source = source_of(path)
    if source["kind"] == "text":
        head = [tokenizer.bos_token_id] if add_bos else []
        tail = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        documents = [
            head + list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) + tail
            for text in read_texts(path)
        ]
        tokens: NDArray[Any] = np.concatenate([np.array(document, dtype=np.int64) for document in documents])
    else:
        sidecar = check_prefix(path)
        if sidecar.tokenizer.fingerprint != fingerprint:
            raise UserError(
                f"{path} was made with tokenizer {sidecar.tokenizer.fingerprint:.12}, the models' tokenizer is "
                f"{fingerprint or 'none that makes such data'!s:.25}: its ids mean other tokens",
                fix="make the data again",
            )
        tokens = open_pair(path).tokens
    return Stream(tokens=tokens, source={**source, "num_tokens": len(tokens)})


def choose_blocks(num_blocks: int, *, count: int, length: int, seed: int) -> NDArray[np.int64]:
    """Return int64[count], ascending: blocks drawn without replacement, the same for the same seed.

    Raises:
        UserError: there are fewer blocks.
    """
    if num_blocks < count:
        raise UserError(
            f"the data holds {num_blocks:,} blocks of {length:,} tokens, {count:,} were asked for",
            fix=f"give more text, shorter --lengths, or --limit {max(num_blocks, 1)}",
        )
    return np.sort(np.random.default_rng([seed, length]).choice(num_blocks, size=count, replace=False))


def positions_to_mask(
    indices: Sequence[int], *, source_hash: str, length: int, ratio: float, seed: int, mask_first: bool
) -> list[NDArray[np.int64]]:
    """Return the masked positions of blocks, int64[k] each: the sampler of pre-training, keyed by the content.

    Args:
        indices: of the blocks.
        source_hash: of the data.
        length: T.
        ratio: share of the positions to mask.
        seed: of the run.
        mask_first: position 0 may be masked. By default it may not: attention collects there whatever token is there.
    """
    key = int.from_bytes(hashlib.sha256(f"{source_hash}:attention:{length}".encode()).digest()[:8], "little")
    return [
        mask_positions(
            seed=seed,
            dataset_key=key,
            sample_index=int(index),
            length=length,
            ratio=ratio,
            eligible=None if mask_first else np.arange(1, length - 1, dtype=np.int64),
        )
        for index in indices
    ]
