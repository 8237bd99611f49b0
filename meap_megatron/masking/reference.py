"""The specification of the masks: `mask_positions` of `meap_megatron.masking`, written to be read.

The words are in `philox`, each strategy is a file of `strategies`. The C++ must agree bit for bit
(tests/masking/test_reference.py).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.masking.arguments import num_masked, prepare
from meap_megatron.masking.strategies import STRATEGIES

__all__ = ["mask_positions", "num_masked"]


def mask_positions(
    *, strategy: str = "random", eligible: NDArray[np.int64] | None = None, **arguments: Any
) -> NDArray[np.int64]:
    """Return the masked input positions of one sample: int64[k]; arguments as `meap_megatron.masking.mask_positions`.

    Raises:
        UserError: an argument breaks its rule; the message names it.
    """
    draw = prepare(strategy=strategy, eligible=eligible, **arguments)
    if draw.count == 0:
        return np.empty(0, dtype=np.int64)
    chosen = STRATEGIES[strategy].choose(draw)
    return chosen if eligible is None else eligible[chosen]
