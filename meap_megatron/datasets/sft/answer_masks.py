"""Where the answers of a conversation are, and which of their tokens the masked copy hides. NumPy, the specification.

The byte beside each token:

    0       prompt (BOS, template, system, user): never trained
    1       answer: trained in the original, may be masked in the copy
    2       what closes an answer: trained in the original, never masked, not trained in the copy
    3       answer that must not be masked (too few words)
    64 + n  as 2, where truncation cut an answer that had n tokens (191: that many or more)

An answer is a run of 1 or of 3. An answer with more than `min_answer_tokens` tokens, before truncation where that is
known, gets max(1, floor(ratio * kept tokens)) masked tokens, uniform without replacement over all its kept tokens.
"""

import math
import random
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.indexed.roles import ANSWER, CUT, UNMASKED
from meap_megatron.masking.philox import ANSWER_STREAM, choose_sorted, mask_key, word_stream


class AnswerSpan(NamedTuple):
    """One answer of a conversation: its tokens, and which number it has."""

    number: int
    start: int
    stop: int
    num_tokens: int
    """Before truncation, as far as the data tells."""
    maskable: bool


def answers(roles: NDArray[np.uint8]) -> list[AnswerSpan]:
    """Return the answers of a conversation, in order.

    Given roles [0, 0, 1, 1, 1, 2, 0, 3, 2], there are answer 0 (tokens 2..4) and answer 1 (token 7, not maskable).
    """
    found: list[AnswerSpan] = []
    edges = [0, *(np.flatnonzero(roles[1:] != roles[:-1]) + 1).tolist(), len(roles)]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        if start < stop and roles[start] in (ANSWER, UNMASKED):
            is_cut = stop < len(roles) and roles[stop] >= CUT
            num_tokens = max(stop - start, int(roles[stop]) - CUT) if is_cut else stop - start
            found.append(AnswerSpan(len(found), start, stop, num_tokens, bool(roles[start] == ANSWER)))
    return found


def masked_answers(roles: NDArray[np.uint8], *, min_answer_tokens: int) -> list[AnswerSpan]:
    """Return the answers of which the copy masks tokens; a conversation without one has no copy."""
    return [a for a in answers(roles) if a.maskable and a.num_tokens > min_answer_tokens]


def num_masked(num_kept: int, *, ratio: float) -> int:
    """Return how many of the kept tokens of an answer are masked."""
    return max(1, math.floor(num_kept * ratio))


def masked_positions(
    roles: NDArray[np.uint8],
    *,
    min_answer_tokens: int,
    ratio: float,
    seed: int,
    dataset_key: int,
    conversation: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Return int64[k], ascending: the masked tokens of one conversation, sampler `philox`.

    Each answer has a stream of words of its own, so that its mask depends on nothing but the arguments.

    Args:
        roles: uint8[num_tokens] of the conversation.
        min_answer_tokens, ratio, seed: as in `SFTConfig`.
        dataset_key: see `meap_megatron.datasets.mask_stage.dataset_key`.
        conversation: index of the conversation in its data, below 2**32.
        epoch: from 0; always 0 if masks are static.
    """
    key = mask_key(seed, dataset_key)
    chosen = [np.empty(0, dtype=np.int64)]
    for answer in masked_answers(roles, min_answer_tokens=min_answer_tokens):
        words = word_stream(key, ANSWER_STREAM + answer.number, conversation + (epoch << 32))
        num_kept = answer.stop - answer.start
        chosen.append(answer.start + choose_sorted(words, num_kept, num_masked(num_kept, ratio=ratio)))
    return np.concatenate(chosen)


def official_positions(
    conversations: Iterable[NDArray[np.uint8]], config: SFTConfig
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the masked tokens of all conversations, sampler `official`.

    One generator draws for one answer after the other, as the published code does when it maps its rows.

    Args:
        conversations: uint8[num_tokens] roles of each conversation, in the order of the data.

    Returns:
        offsets: int64[num_conversations + 1], where each conversation's positions start.
        positions: int32[k], ascending within a conversation.
    """
    generator = random.Random(config.seed)
    counts = [0]
    positions: list[int] = []
    for roles in conversations:
        before = len(positions)
        for answer in masked_answers(roles, min_answer_tokens=config.min_answer_tokens):
            count = num_masked(answer.stop - answer.start, ratio=config.ratio)
            positions += sorted(generator.sample(range(answer.start, answer.stop), count))
        counts.append(len(positions) - before)
    return np.cumsum(counts, dtype=np.int64), np.array(positions, dtype=np.int32)
