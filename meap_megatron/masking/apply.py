"""The mask stage on arrays: a new token array with the mask token at the chosen positions."""

import numpy as np
from numpy.typing import NDArray


def apply_mask(tokens: NDArray[np.int64], *, positions: NDArray[np.int64], mask_id: int) -> NDArray[np.int64]:
    """Return a copy of tokens: int64[length] with mask_id at positions: int64[k].

    A copy, because tokens and labels of a Megatron sample are views of one buffer: writing in place would put the
    mask token into the labels.

        Given tokens [11, 12, 13, 14, 15, 16, 17, 18, 19, 20], positions [2, 5] and mask_id 99,
        then         [11, 12, 99, 14, 15, 99, 17, 18, 19, 20].
    """
    masked = tokens.copy()
    masked[positions] = mask_id
    return masked
