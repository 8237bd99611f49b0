"""Strategy `random`: uniform over all sets of positions."""

import numpy as np
from numpy.typing import NDArray

from meap_megatron.masking.philox import RANDOM_STREAM, choose_sorted, mask_key, word_stream
from meap_megatron.masking.strategies.strategy import Draw, Strategy


class Random(Strategy):
    """Every set of `count` positions is equally likely."""

    name = "random"
    summary = "random positions"

    def choose(self, draw: Draw) -> NDArray[np.int64]:
        """Return int64[count], ascending."""
        words = word_stream(mask_key(draw.seed, draw.dataset_key), RANDOM_STREAM, draw.sample_index)
        return choose_sorted(words, draw.num_eligible, draw.count)
