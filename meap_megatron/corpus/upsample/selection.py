"""Which documents are taken so that long ones hold more of the tokens while the mixture of sources stays (Fu et al. 2024).

A document is a candidate if it is long (at least 4,096 tokens), or if a number drawn from the seed and its own bytes says so
(probability 0.1). Every source has a budget; its candidates are taken in the order of the input until the budget is met. The
draw knows nothing of files, lines or processes, and the order is that of the input, so the result depends on the input, the
options and the seed alone. (The script of Fu et al. draws from one generator over a shuffled stream.)
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError

LONG_FROM = 4096  # tokens
KEEP = 0.1
SEED = 42
SOURCE_KEY = "meta.redpajama_set_name"
CHARACTERS_PER_TOKEN = 3.68  # the estimate of the script of Fu et al.
MEASURES = ("tokens", "estimate")
MIXTURES = {
    "slimpajama": {  # the values in the code of Fu et al.
        "RedPajamaC4": 0.26610,
        "RedPajamaCommonCrawl": 0.53375,
        "RedPajamaStackExchange": 0.03170,
        "RedPajamaWikipedia": 0.03402,
        "RedPajamaGithub": 0.05005,
        "RedPajamaArXiv": 0.04290,
        "RedPajamaBook": 0.04148,
    },
    "slimpajama-text": {  # the values in their paper
        "RedPajamaC4": 0.15,
        "RedPajamaCommonCrawl": 0.67,
        "RedPajamaStackExchange": 0.02,
        "RedPajamaWikipedia": 0.045,
        "RedPajamaGithub": 0.045,
        "RedPajamaArXiv": 0.025,
        "RedPajamaBook": 0.045,
    },
}
COUNTS = ("documents", "tokens", "long_documents", "long_tokens")
ROW = np.dtype([("tokens", "<i4"), ("size", "<i8"), ("source", "<u2"), ("long", "?"), ("candidate", "?")])
"""One document that was read: tokens with BOS and EOS, size (tokens or characters), number of its source in the mixture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upsample:
    """What `--length-upsample` is asked to do.

    Attributes:
        total_tokens: tokens of all sources together.
        mixture: source -> weight; made to add up to 1.
        source: "file" (name of the input file without suffixes), "folder" (name of the folder it is in), or a JSON key or
            parquet column; dots lead into objects.
        keep: probability with which a short document is a candidate.
        long_from: tokens from which a document is long.
        measure: "tokens": what is written, BOS and EOS included; "estimate": characters / 3.68, for lengths and budgets.
        seed: of the draws.
    """

    total_tokens: int
    mixture: dict[str, float]
    source: str = SOURCE_KEY
    keep: float = KEEP
    long_from: int = LONG_FROM
    measure: str = MEASURES[0]
    seed: int = SEED

    def __post_init__(self) -> None:
        if self.total_tokens < 1:
            raise UserError(f"--length-upsample {self.total_tokens}: the tokens to take must be at least 1")
        if not 0 <= self.keep <= 1:
            raise UserError(f"--upsample-keep {self.keep} is a probability, between 0 and 1")
        if self.long_from < 1:
            raise UserError(f"--upsample-long-from {self.long_from} must be at least 1 token")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"--upsample-seed {self.seed} must be at least 0 and below 2^64")
        if self.measure not in MEASURES:
            raise UserError(f"--upsample-measure {self.measure!r} is one of {', '.join(MEASURES)}")
        if not self.mixture or len(self.mixture) > 2**16:
            raise UserError(f"--upsample-mixture names {len(self.mixture)} sources; it needs 1 to 65,536")
        if wrong := [name for name, weight in self.mixture.items() if not 0 < weight < float("inf")]:
            raise UserError(
                f"--upsample-mixture: the weight of {wrong[0]} is {self.mixture[wrong[0]]}, must be above 0"
            )

    @property
    def unit(self) -> float:
        """Sizes per token: 1, or characters."""
        return 1.0 if self.measure == "tokens" else CHARACTERS_PER_TOKEN

    def shares(self) -> dict[str, float]:
        """Return source -> share; they add up to 1."""
        total = sum(self.mixture.values())
        return {name: weight / total for name, weight in self.mixture.items()}

    def budgets(self) -> list[float]:
        """Return the budget of every source, in the order of the mixture and in the unit of sizes."""
        return [share * self.total_tokens * self.unit for share in self.shares().values()]

    def is_long(self, size: int) -> bool:
        """Tell whether a document of this size is long."""
        return size >= self.long_from * self.unit


def draw(text: bytes, *, seed: int) -> float:
    """Return a number in [0, 1), uniform over texts, a pure function of text and seed (keyed BLAKE2b)."""
    digest = hashlib.blake2b(text, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def parse_mixture(text: str) -> dict[str, float]:
    """Read the name of a mixture, or NAME=WEIGHT,NAME=WEIGHT.

    Raises:
        UserError: neither; a name appears twice.
    """
    if text in MIXTURES:
        return dict(MIXTURES[text])
    mixture: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UserError(
                f"--upsample-mixture {text!r} is neither one of {', '.join(MIXTURES)} nor NAME=WEIGHT,NAME=WEIGHT"
            )
        if name in mixture:
            raise UserError(f"--upsample-mixture names {name} twice")
        mixture[name] = value
    return mixture


def parse_tokens(text: str) -> int:
    """Read a number of tokens with an optional K, M or B (thousand, million, 10^9).

    Raises:
        UserError: not of this form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.upper().replace("_", ""))
    if not match:
        raise UserError(f"--length-upsample {text!r}: expected a number of tokens such as 4B, 500M or 2000000")
    return round(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}[match[2]])


def source_of_file(path: str, how: str) -> str | None:
    """Return the source that a file's place gives ("file", "folder"), None if the documents name it."""
    if how == "folder":
        return Path(path).absolute().parent.name
    return Path(path).name.split(".")[0] if how == "file" else None


class Selection:
    """Take candidates in the order of the input until the budget of their source is met; count what passes by.

    Attributes:
        taken: size taken so far, per source.
        seen: int64[sources, 4], `COUNTS` of the documents that came before their source's budget was met.
        kept: int64[sources, 4], `COUNTS` of the documents that were taken.
    """

    def __init__(self, budgets: list[float]) -> None:
        self.budgets = budgets
        self.taken = [0] * len(budgets)
        self.seen = np.zeros((len(budgets), len(COUNTS)), dtype=np.int64)
        self.kept = np.zeros((len(budgets), len(COUNTS)), dtype=np.int64)

    def take(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return bool[n]: which of the next documents are taken.

        A document is taken while its source has less than its budget, so a source ends with at most one document more.

        Args:
            rows: ROW[n], documents in the order of the input.
        """
        taken = np.zeros(len(rows), dtype=bool)
        for source, budget in enumerate(self.budgets):
            places = np.flatnonzero(rows["source"] == source)
            own = rows[places]
            sizes = np.where(own["candidate"], own["size"], 0)
            before = self.taken[source] + np.cumsum(sizes) - sizes
            wanted = before < budget
            chosen = wanted & own["candidate"]
            taken[places[chosen]] = True
            self.taken[source] += int(sizes[wanted].sum())
            self.seen[source] += _counts(own[wanted])
            self.kept[source] += _counts(own[chosen])
        return taken


def _counts(rows: NDArray[Any]) -> list[int]:
    long = rows["long"]
    tokens = rows["tokens"].astype(np.int64)
    return [len(rows), int(tokens.sum()), int(long.sum()), int(tokens[long].sum())]


def report(options: Upsample, selection: Selection) -> dict[str, Any]:
    """Return what was done, as the sidecar holds it.

    `long_share_before` is the share of tokens in long documents that the same mixture has without upsampling: the sources'
    own shares, weighted by the mixture. (Rare sources are read further than others, so plain sums would say something else.)
    """
    sources: dict[str, Any] = {}
    before = 0.0
    for number, (name, share) in enumerate(options.shares().items()):
        seen = dict(zip(COUNTS, map(int, selection.seen[number]), strict=True))
        kept = dict(zip(COUNTS, map(int, selection.kept[number]), strict=True))
        before += share * _share(seen)
        sources[name] = {
            "share": share,
            "budget_tokens": round(share * options.total_tokens),
            "taken_tokens": round(selection.taken[number] / options.unit),
            "budget_met": bool(selection.taken[number] >= selection.budgets[number]),
            "seen": seen,
            "kept": kept,
        }
    total = dict(zip(COUNTS, map(int, selection.kept.sum(0)), strict=True))
    return {
        "options": dataclasses.asdict(options),
        "sources": sources,
        "long_share_before": before,
        "long_share_after": _share(total),
    }


def _share(counts: dict[str, int]) -> float:
    return counts["long_tokens"] / counts["tokens"] if counts["tokens"] else 0.0


def unmet(made: dict[str, Any]) -> str | None:
    """Return what to say if the input ended before the budgets were met, else None.

    Args:
        made: what `report` returned.
    """
    short = {name: source for name, source in made["sources"].items() if not source["budget_met"]}
    if not short:
        return None
    which = ", ".join(f"{name} {s['taken_tokens']:,} of {s['budget_tokens']:,}" for name, s in short.items())
    fits = min(int(source["taken_tokens"] / source["share"]) for source in short.values())
    advice = f"the input is enough for --length-upsample {fits}" if fits else "is this the right --upsample-source?"
    return f"the input ended before the budgets were met ({which} tokens), so the mixture is not the one asked for; {advice}"


def report_lines(made: dict[str, Any]) -> Iterator[str]:
    """Give what `report` returned as lines for a terminal."""
    width = max(map(len, [*made["sources"], "source"]))
    long_from = made["options"]["long_from"]
    yield f"  {'source':<{width}}  {'kept documents':>25}  {'kept tokens':>35}  {f'in documents >= {long_from:,}':>24}"
    for name, source in made["sources"].items():
        seen, kept = source["seen"], source["kept"]
        documents = f"{kept['documents']:,} of {seen['documents']:,}"
        tokens = f"{kept['tokens']:,} of {seen['tokens']:,}"
        yield f"  {name:<{width}}  {documents:>25}  {tokens:>35}  {f'{_share(seen):.1%} -> {_share(kept):.1%}':>24}"
    yield (
        f"  tokens in long documents: {made['long_share_before']:.1%} of this mixture without upsampling, "
        f"{made['long_share_after']:.1%} of what was kept"
    )
