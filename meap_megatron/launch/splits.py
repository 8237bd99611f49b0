"""Is the blend well-formed, and does every split of the data hold a row?

Megatron cuts a dataset by documents. Below one row a split ends in a bare assert, an empty one at the first evaluation.
"""

import math
from dataclasses import dataclass

from meap_megatron.datasets.sft.data import check_lengths
from meap_megatron.errors import UserError, counted
from meap_megatron.indexed.idx_header import read_header
from meap_megatron.indexed.pair import open_pair
from meap_megatron.indexed.sidecar import Sidecar, idx_path
from meap_megatron.launch.blend import DATA_KEYS, entries_of, is_dataset, is_number
from meap_megatron.launch.named_settings import Settings

MEGATRONS_SPLIT = "969,30,1"
SPLITS = ("train", "valid", "test")
MORE = "give that split a larger share (split=80,20,0), or none (split=100,0,0, then nothing is evaluated)"
ALONE = "use split=100,0,0 (nothing is evaluated then), or more documents: a text file is one, so is a line of .jsonl"
CERTAIN = 4
"""Times the tokens of a row: a split of so many by its share of the documents is not counted exactly."""


def check_blend(settings: Settings) -> None:
    """Refuse a blend that Megatron would misread or assert on."""
    for key in DATA_KEYS:
        if settings.get(key) is None:
            continue
        entries = entries_of(settings.get(key))
        weights = [is_number(entry) and not is_dataset(entry) for entry in entries]
        where = f"{settings.where(key)}{key}={' '.join(entries)}"
        if not any(weights):
            continue
        if len(entries) % 2 or weights != [True, False] * (len(entries) // 2):
            raise UserError(
                f"{where}: weights and prefixes must alternate",
                fix=f"write {key}='0.3 data/a 0.7 data/b', or prefixes alone, which are read in proportion to their size",
            )
        for weight, prefix in zip(entries[::2], entries[1::2], strict=True):
            if not (math.isfinite(float(weight)) and float(weight) > 0):
                raise UserError(
                    f"{where}: the weight {weight} of {prefix} must be above 0",
                    fix=f"leave {prefix} out to read none of it",
                )


def shares_of(settings: Settings) -> tuple[list[float], str]:
    """Return the shares of train, validation and test that `split` asks for, and how a message names it.

    Raises:
        UserError: it is not up to three numbers of at least 0, or it leaves nothing to train on.
    """
    value = settings.get("split")
    name = (
        f"split={value}"
        if value is not None
        else f"split={MEGATRONS_SPLIT}, Megatron's default, since split is not given"
    )
    parts = str(MEGATRONS_SPLIT if value is None else value).split(",")
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        shares = []
    where = settings.where("split")
    if not 1 <= len(shares) <= len(SPLITS) or not all(math.isfinite(share) and share >= 0 for share in shares):
        raise UserError(
            f"{where}{name} must be the shares of train, validation and test, three numbers of at least 0, for example "
            "split=98,2,0"
        )
    shares += [0.0] * (len(SPLITS) - len(shares))
    if shares[0] == 0 and not settings.on("skip_train"):
        raise UserError(
            f"{where}{name} leaves no data to train on; its first number is the share of the training data"
        )
    return shares, name


def bounds(shares: list[float], documents: int) -> list[tuple[int, int]]:
    """Return the first document and the end of every split, as Megatron rounds them."""
    total = sum(shares)
    cuts = [0.0]
    for share in shares:
        cuts.append(cuts[-1] + share / total)
    edges = [round(cut * documents) for cut in cuts]
    return list(zip(edges[:-1], edges[1:], strict=True))


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the splits of a run must hold."""

    row: int
    """Positions of a row; it reads one token more, the label of the last position."""
    evaluates: bool
    """Validation and test data are read."""
    whole_rows: bool
    """Every split of every dataset must give a row: a blend without weights, where Megatron weighs by rows."""
    over_long: str = "error"
    """What becomes of conversations that are longer than a row: "error" or "drop"."""


def short_of(prefix: str, sidecar: Sidecar, first: int, end: int, need: Need) -> tuple[str, str] | None:
    """Return why a split of a dataset gives no row, and the way out; None if it gives one."""
    if end <= first:
        return f"is empty: {counted(sidecar.num_documents, 'document')}", MORE if sidecar.num_documents > 1 else ALONE
    if sidecar.kind == "sft":
        lengths = open_pair(prefix).lengths[first:end]
        if (lengths <= need.row + 1).any():
            return None
        return (
            f"has no conversation that fits into a row: the shortest of {end - first:,} has "
            f"{counted(int(lengths.min()), 'token')}, and a row of seq_length={need.row} holds {need.row + 1:,}"
        ), "raise seq_length and max_position_embeddings, or give the split a larger share"
    expected = sidecar.num_tokens / max(1, sidecar.num_documents) * (end - first)
    if expected > CERTAIN * (need.row + 1) and end - first > CERTAIN:
        return None
    tokens = int(open_pair(prefix).lengths[first:end].sum(dtype="int64"))
    if tokens > need.row:
        return None
    return (
        f"is shorter than a row: {counted(tokens, 'token')} in {end - first:,} of "
        f"{counted(sidecar.num_documents, 'document')}, and a row of seq_length={need.row} reads {need.row + 1:,}"
    ), MORE


def check_splits(settings: Settings, sidecars: dict[str, Sidecar], need: Need) -> None:
    """Refuse conversations that do not fit, and a split of `data_path` that is read and gives no row."""
    shares, name = shares_of(settings)
    for prefix, sidecar in sidecars.items():
        if sidecar.kind == "sft":
            check_lengths(open_pair(prefix).lengths, prefix=prefix, over_long=need.over_long, sequence_length=need.row)
        documents = read_header(idx_path(prefix)).num_sequences
        for split, share, (first, end) in zip(SPLITS, shares, bounds(shares, documents), strict=True):
            found = short_of(prefix, sidecar, first, end, need) if share > 0 else None
            # Megatron repeats the documents of a short split, which is harmless for training alone.
            if found is None or not (end <= first or need.whole_rows or (need.evaluates and split != "train")):
                continue
            reason, ways = found
            raise UserError(f"{settings.where('split')}the {split} split of {prefix} {reason} ({name})", fix=ways)


def has_validation(settings: Settings) -> bool:
    """Tell whether the settings name any data to evaluate on."""
    if settings.on("mock_data"):
        return True
    if settings.has("train_data_path", "per_split_data_args_path"):
        return settings.has("valid_data_path", "per_split_data_args_path")
    return shares_of(settings)[0][1] > 0
