"""The mask stage of one dataset: from (tokens, sample index) to changed tokens. NumPy only."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.config import MaskConfig
from meap_megatron.errors import UserError
from meap_megatron.indexed.ordinary_ids import ordinary_ids
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.masking import STRATEGIES, mask_positions
from meap_megatron.masking.corruption import KEPT, Corruption, replacements
from meap_megatron.masking.philox import REPLACE_STREAM, mask_key, sample_uniforms, word_stream

CHANGED_INPUT, CHANGED_TARGET = 2.0, 4.0
"""What a changed input adds to the loss mask at its own position, and at the position that predicts it."""


def config_of_data(prefix: str, sidecar: Sidecar, **fields: Any) -> MaskConfig:
    """Return the masking of a dataset: fields of `MaskConfig`, with its [MASK] and the ids of which tokens are drawn.

    Raises:
        UserError: a field breaks its rule.
    """
    draws = Corruption.parse(fields.get("corruption", MaskConfig.corruption)).random > 0
    ordinary = ordinary_ids(prefix, sidecar) if draws else None
    return MaskConfig(**{"mask_id": sidecar.tokenizer.mask_id} | fields, ordinary=ordinary)


def check_tokenizer(sidecar: Sidecar, prefix: str, tokenizer: Any, *, mask_id: int | None) -> None:
    """Refuse data of another tokenizer than a configuration has (one without a fingerprint is not compared)."""
    info = sidecar.tokenizer
    fingerprint = getattr(tokenizer, "fingerprint", info.fingerprint)
    if fingerprint != info.fingerprint:
        raise UserError(
            f"{prefix} was made with tokenizer {info.fingerprint[:12]}, this run uses {fingerprint[:12]}: its ids mean "
            "other tokens",
            fix="make the data again with the run's tokenizer",
        )
    if mask_id not in (None, info.mask_id):
        raise UserError(
            f"mask_id is {mask_id}, but [MASK] of {prefix} is {info.mask_id} ({info.mask_token}); another id may be a real "
            "token of the data"
        )


def dataset_key(content_hash: str, split: str) -> int:
    """Return the 64-bit key of one split of one dataset: the first 8 bytes of a SHA-256, little endian.

    From the content, so that moving or copying the data changes no mask; with the split's name, because train and
    valid samples with equal index are different samples.
    """
    digest = hashlib.sha256(f"{content_hash}:{split}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def mark_changes(loss_mask: NDArray[np.float32], changed: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return float32[sequence_length]: the loss mask with `CHANGED_INPUT` and `CHANGED_TARGET` added.

    Given loss_mask [1, 1, 0, 1] and changed [2], then [1, 5, 2, 1].
    """
    marked = loss_mask.copy()
    marked[changed] += np.float32(CHANGED_INPUT)
    marked[changed[changed > 0] - 1] += np.float32(CHANGED_TARGET)
    return marked


@dataclass(frozen=True, kw_only=True)
class MaskStage:
    """Changes the samples of one split of one dataset."""

    mask: MaskConfig
    dataset_key: int
    num_samples: int = 1
    """Samples that the run draws of this split: where a schedule of the ratio ends."""

    def ratio(self, sample_index: int) -> float:
        """Return the share of the positions to change in one sample, 0 if it stays clean."""
        clean, within = sample_uniforms(self.mask.seed, self.dataset_key, sample_index)
        if clean < self.mask.clean_fraction:
            return 0.0
        return self.mask.schedule.at(min(1.0, sample_index / self.num_samples), within)

    def positions(
        self,
        tokens: NDArray[np.int64],
        *,
        sample_index: int,
        num_real: int,
        document_tokens: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Return int64[k], ascending: the chosen input positions of one sample.

        Args:
            tokens: int64[sequence_length], unmasked input tokens.
            sample_index: in the split, from 0.
            num_real: input positions before the padding; a sample with padding is masked like one of this length.
            document_tokens: int64[sequence_length], the length of each position's document; needed by
                `min_document_tokens`.
        """
        mask = self.mask
        ratio = self.ratio(sample_index) if num_real >= 2 else 0.0
        if ratio == 0:
            return np.empty(0, dtype=np.int64)
        if STRATEGIES[mask.strategy].follows_step:
            assert mask.global_batch_size is not None, "MaskConfig requires it"
            # The sets are those of the full length, padding or not.
            step = sample_index // mask.global_batch_size
            positions = self._choose(sample_index, ratio=ratio, length=tokens.size, step=step)
            return positions[positions < num_real - 1]
        if not (mask.protected_ids or mask.skip_first or mask.min_document_tokens):
            span_length = min(mask.span_length, num_real - 1)
            return self._choose(sample_index, ratio=ratio, length=num_real, span_length=span_length)
        # Looked up in the unmasked tokens; the last real position is never masked, protected or not.
        free = np.isin(tokens[: num_real - 1], mask.protected_ids, invert=True)
        free[: mask.skip_first] = False
        if mask.min_document_tokens:
            assert document_tokens is not None
            free &= document_tokens[: num_real - 1] >= mask.min_document_tokens
        eligible = np.flatnonzero(free)
        # A sample full of protected tokens is not an error of the user: its runs are as long as they can be.
        span_length = min(mask.span_length, max(1, eligible.size))
        return self._choose(sample_index, ratio=ratio, length=num_real, span_length=span_length, eligible=eligible)

    def apply(
        self,
        tokens: NDArray[np.int64],
        *,
        sample_index: int,
        num_real: int,
        document_tokens: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return a changed copy of tokens and the changed positions; arguments as for `positions`.

        A copy, because tokens and labels of a Megatron sample are views of one buffer: writing in place would put the
        mask token into the labels.

            Given tokens [11, 12, 13, 14, 15, 16], positions [2, 5] and corruption `mask` with mask_id 99,
            then         [11, 12, 99, 14, 15, 99] and [2, 5].
        """
        mask = self.mask
        positions = self.positions(
            tokens, sample_index=sample_index, num_real=num_real, document_tokens=document_tokens
        )
        ids = replacements(
            word_stream(mask_key(mask.seed, self.dataset_key), REPLACE_STREAM, sample_index),
            positions.size,
            corruption=mask.shares,
            mask_id=mask.mask_id,
            ordinary=mask.ordinary,
        )
        changed = tokens.copy()
        changed[positions[ids != KEPT]] = ids[ids != KEPT]
        return changed, positions[ids != KEPT]

    def _choose(self, sample_index: int, **arguments: Any) -> NDArray[np.int64]:
        return mask_positions(
            seed=self.mask.seed,
            dataset_key=self.dataset_key,
            sample_index=sample_index,
            strategy=self.mask.strategy,
            **arguments,
        )
