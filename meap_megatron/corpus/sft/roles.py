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


def truncate(
    ids: NDArray[np.uint32], roles: NDArray[np.uint8], *, max_length: int, end_id: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Cut a conversation to `max_length` tokens, the last of which is the end token.

    As the official code: the ids are cut to one less and closed by the end token, the labels are cut to `max_length`.
    So the end token is trained only if it stands where an end token stood; where it cuts an answer it is not.

    Args:
        ids: uint32[n] token ids, n > max_length.
        roles: uint8[n] roles.
        max_length: tokens to keep.
        end_id: the token that closes a cut conversation.

    Returns:
        uint32[max_length] ids and uint8[max_length] roles.
    """
    kept, kept_roles = ids[:max_length].copy(), roles[:max_length].copy()
    if kept_roles[-1] != END:
        kept[-1], kept_roles[-1] = end_id, PROMPT
    return kept, kept_roles


def answer_lengths(roles: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return int64[answers], the tokens of each answer; an empty answer is no run and has no entry.

    Args:
        roles: uint8[n] roles of one conversation.
    """
    inside = np.concatenate([[False], (roles == ANSWER) | (roles == UNMASKED), [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return edges[1::2] - edges[::2]


def num_unclosed(roles: NDArray[np.uint8]) -> int:
    """Return how many answers no end token follows.

    Args:
        roles: uint8[n] roles of one conversation.
    """
    after = np.concatenate([roles[1:], [PROMPT]])
    return int(np.count_nonzero(((roles == ANSWER) | (roles == UNMASKED)) & (after == PROMPT)))
