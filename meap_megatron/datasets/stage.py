"""The mask stage of one dataset: from (tokens, sample index) to masked tokens. NumPy only."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meap_megatron.config import MaskConfig
from meap_megatron.masking import STRATEGIES, apply_mask, mask_positions


def dataset_key(content_hash: str, split: str) -> int:
    """Return the 64-bit key of one split of one dataset: the first 8 bytes of a SHA-256, little endian.

    From the content, so that moving or copying the data changes no mask; with the split's name, because train and
    valid samples with equal index are different samples.
    """
    digest = hashlib.sha256(f"{content_hash}:{split}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True, kw_only=True)
class MaskStage:
    """Masks the samples of one split of one dataset."""

    mask: MaskConfig
    dataset_key: int

    def positions(self, tokens: NDArray[np.int64], *, sample_index: int, num_real: int) -> NDArray[np.int64]:
        """Return int64[k], ascending: the masked input positions of one sample.

        Args:
            tokens: int64[sequence_length], unmasked input tokens.
            sample_index: in the split, from 0.
            num_real: input positions before the padding; a sample with padding is masked like one of this length.
        """
        mask = self.mask
        if num_real < 2:
            return np.empty(0, dtype=np.int64)
        if STRATEGIES[mask.strategy].follows_step:
            assert mask.global_batch_size is not None, "MaskConfig requires it"
            # The sets are those of the full length, padding or not.
            positions = self._choose(sample_index, length=tokens.size, step=sample_index // mask.global_batch_size)
            return positions[positions < num_real - 1]
        if not mask.protected_ids:
            return self._choose(sample_index, length=num_real, span_length=min(mask.span_length, num_real - 1))
        # Looked up in the unmasked tokens; the last real position is never masked, protected or not.
        eligible = np.flatnonzero(np.isin(tokens[: num_real - 1], mask.protected_ids, invert=True))
        # A sample full of protected tokens is no error of the user: its runs are as long as they can be.
        span_length = min(mask.span_length, max(1, eligible.size))
        return self._choose(sample_index, length=num_real, span_length=span_length, eligible=eligible)

    def apply(self, tokens: NDArray[np.int64], *, sample_index: int, num_real: int) -> NDArray[np.int64]:
        """Return a masked copy of tokens: int64[sequence_length]; arguments as for `positions`."""
        positions = self.positions(tokens, sample_index=sample_index, num_real=num_real)
        return apply_mask(tokens, positions=positions, mask_id=self.mask.mask_id)

    def _choose(
        self,
        sample_index: int,
        *,
        length: int,
        span_length: int = 1,
        step: int | None = None,
        eligible: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        return mask_positions(
            seed=self.mask.seed,
            dataset_key=self.dataset_key,
            sample_index=sample_index,
            length=length,
            ratio=self.mask.ratio,
            strategy=self.mask.strategy,
            span_length=span_length,
            step=step,
            eligible=eligible,
        )
