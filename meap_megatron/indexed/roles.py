"""The role of a token, one byte beside each id, and what truncation does to it.

An answer is a maximal run of ANSWER (or of UNMASKED) tokens; two answers are always apart.
"""

import numpy as np
from numpy.typing import NDArray

PROMPT = 0
"""BOS, template, system and user text, and answers that are not to be learned: never trained."""
ANSWER = 1
"""Token of an answer: trained in the original, may be masked in the copy."""
END = 2
"""End token that closes an answer: trained in the original; never masked, and not trained in the copy."""
UNMASKED = 3
"""Token of an answer of too few words: trained in the original, never masked."""
CUT = 64
"""CUT + n, only as the last of a row: token of an answer of n tokens (191: that many or more) that truncation cut here.

Trained in the original; never masked, and not trained in the copy, where the official code has an end token.
"""
MOST_CUT = 191
"""Longest answer that the role of a cut tells."""


def truncate(
    ids: NDArray[np.uint32], roles: NDArray[np.uint8], *, max_length: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Cut a conversation to `max_length` tokens so that its segments have the official code's labels.

    That code cuts the ids to one less and closes them by the end token, and cuts the labels to `max_length`. The last
    input predicts nothing, the last label is the token that stood there: what is kept is that token, and its role says
    whether it is trained (an answer, or its end) and how long an answer was that is cut.

    Given answer tokens a to d and the end token 2, cut to 5 (roles above ids):

        0 0 1 1  1  1 2      0 0 1 1 CUT+4      the end of a cut answer is not trained, c is
        p q a b  c  d 2      p q a b   c

    Args:
        ids: uint32[n] token ids, n > max_length.
        roles: uint8[n] roles.
        max_length: tokens to keep.

    Returns:
        uint32[max_length] ids and uint8[max_length] roles.
    """
    kept, kept_roles = ids[:max_length], roles[:max_length].copy()
    if kept_roles[-1] in (ANSWER, UNMASKED):
        kept_roles[-1] = CUT + min(MOST_CUT, answer_lengths(roles, before=max_length)[-1])
    return kept, kept_roles


def answer_lengths(roles: NDArray[np.uint8], *, before: int) -> NDArray[np.int64]:
    """Return int64[answers], the tokens of each answer, cut or not; an empty answer has no entry.

    Args:
        roles: uint8[n] roles of one conversation before truncation.
        before: only of answers that start before this token.
    """
    inside = np.concatenate([[False], (roles == ANSWER) | (roles == UNMASKED), [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    return (stops - starts)[starts < before]


def num_unclosed(roles: NDArray[np.uint8]) -> int:
    """Return how many answers no end token follows.

    Args:
        roles: uint8[n] roles of one conversation.
    """
    after = np.concatenate([roles[1:], [PROMPT]])
    return int(np.count_nonzero(((roles == ANSWER) | (roles == UNMASKED)) & (after == PROMPT)))
