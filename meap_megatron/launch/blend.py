"""`data_path` in all its spellings: a prefix, a file of it, a list, Megatron's string of weights and prefixes."""

import json
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import idx_path

DATA_KEYS = ("data_path", "train_data_path", "valid_data_path", "test_data_path")
ENDINGS = (".bin", ".idx", ".meap.json")


def is_number(entry: str) -> bool:
    """Tell whether an entry of a blend is a weight."""
    try:
        float(entry)
    except ValueError:
        return False
    return True


def entries_of(value: Any) -> list[str]:
    """Return the entries of a `data_path`: a list, one prefix, or Megatron's string of weights and prefixes.

    Given  "0.3 data/a 0.7 data/b"   or  [data/a.bin]
    then   [0.3, data/a, 0.7, data/b]    [data/a]

    A path with spaces that names a dataset stays whole; `.bin`, `.idx` and `.meap.json` of a dataset name the dataset.
    """
    entries = [str(entry) for entry in (value if isinstance(value, list) else [value])]
    if len(entries) == 1 and not is_dataset(entries[0]) and len(entries[0].split()) > 1:
        entries = entries[0].split()
    return [prefix_of(entry) for entry in entries]


def prefixes_of(value: Any) -> list[str]:
    """Return the prefixes of a `data_path`, without the weights of a blend."""
    return [entry for entry in entries_of(value) if not is_number(entry)]


def is_dataset(prefix: str) -> bool:
    """Tell whether a prefix has a dataset."""
    return idx_path(prefix).exists() or idx_path(prefix_of(prefix)).exists()


def prefix_of(entry: str) -> str:
    """Return the prefix that a file of a dataset belongs to; other entries as they are."""
    for ending in ENDINGS:
        stem = entry.removesuffix(ending)
        if stem != entry and not idx_path(entry).exists() and idx_path(stem).exists():
            return stem
    return entry


def spelled_out(argv: list[str]) -> list[str]:
    """Return a command line with every dataset flag as Megatron reads it: each prefix and weight is one argument."""
    result: list[str] = []
    position = 0
    while position < len(argv):
        option, equals, text = argv[position].partition("=")
        position += 1
        if option.removeprefix("--").replace("-", "_") not in DATA_KEYS or not option.startswith("--"):
            result.append(argv[position - 1])
            continue
        values = [text] if equals else []
        while position < len(argv) and not argv[position].startswith("--"):
            values.append(argv[position])
            position += 1
        result += [option, *entries_of(values)]
    return result


def entries_in_file(path: str, *, per_split: bool) -> list[str]:
    """Return the entries of the file of `data_args_path`, or of all splits in that of `per_split_data_args_path`.

    Raises:
        UserError: it cannot be read, or is not of Megatron's form.
    """
    flag = "--per-split-data-args-path" if per_split else "--data-args-path"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{flag} {path} cannot be read: {reason}") from None
    if not per_split:
        return text.split()
    try:
        content = json.loads(text)
        parts = [content[split] for split in ("train", "valid", "test")]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{flag} {path} must be a JSON object with the keys train, valid and test, each a blend ({error!r})"
        ) from None
    return [entry for part in parts if part is not None for entry in (part.split() if isinstance(part, str) else part)]


def folder_hint(prefix: str) -> str | None:
    """Return the datasets in a folder that was named as a prefix; None if it is not a folder."""
    folder = Path(prefix)
    if not folder.is_dir():
        return None
    names = sorted(str(path)[: -len(".idx")] for path in folder.glob("*.idx") if not path.name.endswith(".roles.idx"))
    found = f"it contains {', '.join(names[:5])}" if names else "it contains no dataset"
    return f"data_path={prefix} is a folder, and a dataset is named by its prefix: {found}"


def data_prefixes(args: Any) -> list[str]:
    """Return all dataset prefixes that the arguments name, in order."""
    from megatron.training.utils import get_blend_and_blend_per_split

    blend, per_split = get_blend_and_blend_per_split(args)
    # A blend is (prefixes, weights or None).
    return [str(prefix) for one in (blend, *(per_split or ())) if one is not None for prefix in one[0]]
