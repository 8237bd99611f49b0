"""Passages nearest to a question by BM25: the offline substitute for the retriever of the published sets."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

K1, B = 1.2, 0.75
"""The usual constants of BM25: how fast a repeated word saturates, and how much long passages are held back."""


def nearest(questions: Sequence[str], passages: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """Yield, for each question, the passages from the nearest to the farthest: int64[len(passages)], ties by index.

    Args:
        questions: split at white space, in lower case, without the marks around a word.
        passages: normalised text (lower case, no punctuation).
    """
    counts = [Counter(passage.split()) for passage in passages]
    sizes = np.array([max(count.total(), 1) for count in counts], dtype=np.float64)
    holders: dict[str, list[tuple[int, int]]] = {}
    for index, count in enumerate(counts):
        for word, number in count.items():
            holders.setdefault(word, []).append((index, number))
    damping = K1 * (1 - B + B * sizes / sizes.mean())
    for question in questions:
        scores = np.zeros(len(passages))
        for word in set(question.lower().replace("'", "").split()):
            if held := holders.get(word.strip('.,?!"()')):
                rarity = math.log(1 + (len(passages) - len(held) + 0.5) / (len(held) + 0.5))
                places = np.array([index for index, _ in held])
                times = np.array([number for _, number in held], dtype=np.float64)
                scores[places] += rarity * times * (K1 + 1) / (times + damping[places])
        yield np.argsort(-scores, kind="stable")
