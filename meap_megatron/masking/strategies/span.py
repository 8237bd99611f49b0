"""Strategy `span`: runs of consecutive positions that never overlap, uniform over their placements."""

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.masking.philox import SPAN_STREAM, below, choose_sorted, mask_key, word_stream
from meap_megatron.masking.strategies.strategy import Draw, Strategy


class Span(Strategy):
    """ceil(count / span_length) runs of `span_length` positions, one of them shorter where the division leaves a rest."""

    name = "span"
    summary = "spans of --meap-span-length"

    def check_sample(
        self, *, span_length: int, num_eligible: int, step: int | None, eligible: NDArray[np.int64] | None
    ) -> None:
        """Raise UserError if a span is longer than the sample."""
        if num_eligible > 0 and span_length > num_eligible:
            raise UserError(f"span_length is {span_length}, longer than the sample: {num_eligible} eligible positions")

    def choose(self, draw: Draw) -> NDArray[np.int64]:
        """Return int64[count], ascending.

        Given 10 eligible positions, count 5 and span_length 3, there are 2 runs, of 3 and 2. With each run shrunk to
        one slot there are 10 - 5 + 2 = 7 slots, of which 2 are chosen, say 1 and 4 (`.S..S..`), and then the short
        run, say the first: `.SS..SSS..`, positions 1, 2, 5, 6, 7.
        """
        words = word_stream(mask_key(draw.seed, draw.dataset_key), SPAN_STREAM, draw.sample_index)
        num_spans = -(-draw.count // draw.span_length)
        slots = choose_sorted(words, draw.num_eligible - draw.count + num_spans, num_spans)
        lengths = [draw.span_length] * num_spans
        if rest := draw.count % draw.span_length:
            lengths[below(words, num_spans)] = rest
        starts = [int(slot) - span + sum(lengths[:span]) for span, slot in enumerate(slots)]
        runs = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        return np.concatenate(runs).astype(np.int64)
