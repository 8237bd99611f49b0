"""Windows of text, which of their tokens repeat, and sums over them. Pure functions, without a model.

A window is one token of context and the tokens that are predicted after it. The windows of a document follow one another, so
that every token is predicted exactly once; the first begins with BOS (or EOS), the others with the last token before them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.evaluation.statistics import RESAMPLES
from meap_megatron.tokenizer.byte_lengths import ByteLengths

NGRAMS = (2, 4)
KINDS = ("first", "repeated", "once")
"""What the last token of an n-gram is: of the first occurrence of one that comes again in the window, of a later
occurrence, or of an n-gram that occurs once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A stretch of one document."""

    tokens: NDArray[np.int64]
    """int64[n + 1]: the token of context, then the n that are predicted."""
    text: NDArray[np.bool_]
    """bool[n]: predicted tokens that are text, not special."""
    bytes: int
    """Of the predicted tokens."""


def num_windows(lengths: NDArray[np.integer], *, length: int, prefix: bool) -> NDArray[np.int64]:
    """Return int64[documents]: windows of each; without a prefix the first token of a document is not predicted."""
    return -(-np.maximum(lengths.astype(np.int64) - (not prefix), 0) // length)


def window(ids: NDArray[np.integer], index: int, *, length: int, prefix: int | None, sizes: ByteLengths) -> Window:
    """Return one window of a document.

    Given  ids [5, 6, 7], length 2 and prefix 1
    then   window 0 has tokens [1, 5, 6], window 1 has [6, 7].

    Args:
        ids: int[n], the whole document without BOS and EOS.
        index: which window.
        length: predicted tokens of a window.
        prefix: id of the context of the first token, or None.
        sizes: bytes of every token.
    """
    whole = np.asarray(ids, dtype=np.int64)
    counts = sizes.count(whole, opens=True)
    if prefix is not None:
        whole, counts = np.concatenate([[prefix], whole]), np.concatenate([[0], counts])
    start = index * length
    tokens = whole[start : start + length + 1]
    return Window(
        tokens=tokens,
        text=~sizes.special[tokens[1:]],
        bytes=int(counts[start + 1 : start + len(tokens)].sum()),
    )


def bin_edges(length: int) -> NDArray[np.int64]:
    """Return where the bins of positions begin, and the end: 1, 2, 3, 4, 6, 8, 12, 16, ..., length + 1.

    Position p of a token: it is predicted from p tokens.
    """
    doubling = 2 ** np.arange(int(length).bit_length())
    starts = np.unique(np.concatenate([doubling, doubling[1:] * 3 // 2]))
    return np.append(starts[starts <= length], length + 1)


def occurrences(tokens: NDArray[np.integer], n: int) -> dict[str, NDArray[np.bool_]]:
    """Return kind -> bool[T]: which tokens end an n-gram of that kind; the first n - 1 end none.

    Given tokens a b c a b and n = 2; then b at 1 is `first`, b at 4 is `repeated`, c and a (the second) are `once`.
    """
    found = {kind: np.zeros(len(tokens), dtype=bool) for kind in KINDS}
    if len(tokens) >= n:
        grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
        _, begins, which, counts = np.unique(grams, axis=0, return_index=True, return_inverse=True, return_counts=True)
        which = which.reshape(-1)
        later = begins[which] != np.arange(len(grams))
        again = counts[which] > 1
        for kind, flags in zip(KINDS, (again & ~later, later, ~again), strict=True):
            found[kind][n - 1 :] = flags
    return found


def sums(found: Window, losses: NDArray[np.floating], *, edges: NDArray[np.int64]) -> dict[str, Any]:
    """Return what is kept of a window: [sum, count] of losses, of all tokens, by position (bin) and by kind of n-gram.

    `losses` is float[n], nats of every predicted token.
    """
    text, nats = found.text, losses.astype(np.float64)
    places = np.searchsorted(edges, np.arange(1, len(nats) + 1), side="right") - 1

    def of(flags: NDArray[np.bool_]) -> list[float]:
        return [float(nats[flags].sum()), int(flags.sum())]

    return {
        "all": of(text),
        "bytes": found.bytes,
        "positions": [of(text & (places == number)) for number in range(len(edges) - 1)],
        "ngrams": {
            str(n): {kind: of(text & flags[1:]) for kind, flags in occurrences(found.tokens, n).items()}
            for n in NGRAMS
        },
    }


def resampled(values: NDArray[np.floating], *, seed: int) -> NDArray[np.float64]:
    """Return float64[1 + RESAMPLES, ...]: sums over windows of float[windows, ...], then those of resampled windows."""
    count = len(values)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.tensordot(np.concatenate([np.ones((1, count)), drawn]), np.asarray(values, np.float64), axes=1)


def summary(totals: NDArray[np.float64], *, n: float) -> dict[str, Any]:
    """Return count, value and 95 % interval of what was computed from `resampled` sums: float64[1 + RESAMPLES]."""
    if not np.isfinite(totals[0]):
        return {"n": int(n), "mean": None}
    low, high = np.nanpercentile(totals[1:], [2.5, 97.5])
    return {"n": int(n), "mean": float(totals[0]), "low": float(low), "high": float(high)}


def analyse(windows: Sequence[Mapping[str, Any]], *, edges: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Return means over tokens of the `sums` of windows, with intervals from resampling the windows.

    Returns:
        `loss` (nats per token), `bits_per_byte`, `positions` (one entry for each bin: from, to, loss) and `ngrams`
        (n -> loss of each kind, `copy_gain`: first less repeated).
    """

    def totals(rows: Sequence[Any]) -> NDArray[np.float64]:
        return resampled(np.array(rows, dtype=np.float64), seed=seed)

    with np.errstate(invalid="ignore", divide="ignore"):
        nats, count = totals([one["all"] for one in windows]).T
        size = totals([one["bytes"] for one in windows])
        found: dict[str, Any] = {
            "loss": summary(nats / count, n=count[0]),
            "bits_per_byte": summary(nats / np.log(2) / size, n=size[0]),
        }
        positions = totals([one["positions"] for one in windows])
        found["positions"] = [
            {"from": int(edges[number]), "to": int(edges[number + 1] - 1)} | summary(top / bottom, n=bottom[0])
            for number, (top, bottom) in enumerate(positions.transpose(1, 2, 0))
        ]
        found["ngrams"] = {}
        for n in map(str, NGRAMS):
            sums_of = totals([[one["ngrams"][n][kind] for kind in KINDS] for one in windows])
            means = {
                kind: (top / bottom, bottom[0])
                for kind, (top, bottom) in zip(KINDS, sums_of.transpose(1, 2, 0), strict=True)
            }
            gain = means["first"][0] - means["repeated"][0]
            found["ngrams"][n] = {
                **{kind: summary(mean, n=number) for kind, (mean, number) in means.items()},
                "copy_gain": summary(gain, n=means["repeated"][1]),
            }
    return found
