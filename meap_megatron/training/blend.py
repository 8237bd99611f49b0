"""`data_path` in all its spellings: a prefix, a file of it, a list, Megatron's string of weights and prefixes."""

from pathlib import Path
from typing import Any

from meap_megatron.corpus.sidecar import idx_path

DATA_KEYS = ("data_path", "train_data_path", "valid_data_path", "test_data_path")
ENDINGS = (".bin", ".idx", ".meap.json")


def is_number(word: str) -> bool:
    """Tell whether a word of a blend is a weight."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def words_of(value: Any) -> list[str]:
    """Return the words of a `data_path`: a list, one prefix, or Megatron's string of weights and prefixes.

    Given  "0.3 data/a 0.7 data/b"   or  [data/a.bin]
    then   [0.3, data/a, 0.7, data/b]    [data/a]

    A path with spaces that names a dataset stays whole; `.bin`, `.idx` and `.meap.json` of a dataset name the dataset.
    """
    words = [str(word) for word in (value if isinstance(value, list) else [value])]
    if len(words) == 1 and not is_dataset(words[0]) and len(words[0].split()) > 1:
        words = words[0].split()
    return [prefix_of(word) for word in words]


def is_dataset(prefix: str) -> bool:
    """Tell whether a dataset stands under a prefix."""
    return idx_path(prefix).exists() or idx_path(prefix_of(prefix)).exists()


def prefix_of(word: str) -> str:
    """Return the prefix that a file of a dataset belongs to; other words as they are."""
    for ending in ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and not idx_path(word).exists() and idx_path(stem).exists():
            return stem
    return word


def spelled_out(argv: list[str]) -> list[str]:
    """Return a command line with every dataset flag in the form that Megatron reads, prefixes and weights as words."""
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
        result += [option, *words_of(values)]
    return result


def folder_hint(prefix: str) -> str | None:
    """Return the datasets in a folder that was named as a prefix; None if it is no folder."""
    folder = Path(prefix)
    if not folder.is_dir():
        return None
    names = sorted(str(path)[: -len(".idx")] for path in folder.glob("*.idx") if not path.name.endswith(".roles.idx"))
    found = f"it contains {', '.join(names[:5])}" if names else "it contains no dataset"
    return f"data_path={prefix} is a folder, and a dataset is named by its prefix: {found}"
