"""Where the data of a run is, and of which kind: settings that contradict each other, refused before anything trains."""

from collections.abc import Iterator

from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.declared import declared
from meap_megatron.errors import UserError
from meap_megatron.launch import blend
from meap_megatron.launch.named_settings import Settings

FINE_TUNING = ("meap_sft", "meap_sft_loss", "meap_epochs", *(f"meap_sft_{one.name}" for one in declared(SFTConfig)))
"""Settings of which one says that a run fine-tunes: meap_sft, meap_sft_..., meap_epochs."""

OTHER_SOURCES = ("data_args_path", "per_split_data_args_path")
PER_SPLIT = ("train_data_path", "valid_data_path", "test_data_path")
SOURCES = (("mock_data",), ("data_path",), ("data_args_path",), PER_SPLIT, ("per_split_data_args_path",))
"""Settings that say where the data is: those of one tuple go together, and no others."""
REMOTE = ("s3://", "msc://")
PATHS = (*blend.DATA_KEYS, "data_args_path", "per_split_data_args_path", "data_cache_path")


def of_data(settings: Settings) -> Iterator[UserError]:
    """Yield settings of data that would silently do nothing, or end in a bare assert."""
    data = settings.table.get("data_path")
    if data is not None and data.value is None and not settings.has("mock_data", *blend.DATA_KEYS, *OTHER_SOURCES):
        yield UserError(
            f"{data.origin}: no training data",
            fix="set data_path to the prefix that `meap preprocess` wrote, there or on the "
            "command line (data_path=data/mine)",
        )
    yield from of_sources(settings)
    if settings.on("mock_data") and not settings.has("vocab_size", "tokenizer_type"):
        yield UserError(
            f"{settings.where('mock_data')}mock_data=true needs vocab_size, the number of ids that it draws",
            fix="set vocab_size",
        )
    for name in PATHS:
        value = settings.get(name)
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str) and entry.startswith(REMOTE):
                yield UserError(
                    f"{settings.where(name)}{flag(name)} {entry}: datasets are read from a file system that all nodes see, "
                    "not from an object store",
                    fix="copy or mount the data",
                )
    if settings.on("dataloader_fast_cache_load"):
        for name in ("data_path", "data_args_path"):
            if settings.has(name):
                yield UserError(
                    f"{settings.where(name)}{flag('dataloader_fast_cache_load')} needs one blend per split, and "
                    f"{flag(name)} is one for all",
                    fix="give --train-data-path, --valid-data-path and --test-data-path, or leave "
                    "it out: the sample index is built once and reused anyway",
                )


def of_sources(settings: Settings) -> Iterator[UserError]:
    """Yield data that is named twice, or named without its share for training."""
    named = [name for group in SOURCES if (name := next(filter(settings.has, group), None)) is not None]
    if len(named) > 1:
        listed = " and ".join(map(settings.named, named))
        yield UserError(
            f"{settings.where(named[0])}{listed} are both given: one source of data at a time", fix="leave one out"
        )
        return
    own = next((name for name in named if name in (*PER_SPLIT, "per_split_data_args_path")), None)
    if own is not None and settings.has("split"):
        yield UserError(
            f"{settings.quoted(own)} and {settings.named('split')} are both given: each split has data of its own",
            fix="leave split out",
        )
    if own in PER_SPLIT[1:] and not settings.on("skip_train"):
        yield UserError(f"{settings.quoted(own)} names no training data", fix="give train_data_path too")
    if named == ["data_args_path"] and not settings.has("split"):
        yield UserError(
            f"{settings.quoted('data_args_path')} needs split, the shares of train, validation and test",
            fix="set it, for example split=98,2,0",
        )


def flag(name: str) -> str:
    """Return a setting as it is typed on the command line."""
    return f"--{name.replace('_', '-')}"


def check_kind(settings: Settings, prefixes: list[str], *, sft_data: bool) -> None:
    """Refuse text for a run that fine-tunes, and conversations for one that does not.

    The sidecar says which kind the data is. What the user means must be said too: either kind trains without an error, and
    a wrong `data_path` would show in the answers of the trained model only.

    Args:
        sft_data: whether it is data of `meap preprocess sft`.
    """
    given = next((name for name in FINE_TUNING if settings.has(name)), None)
    if given is not None and not sft_data:
        value = str(settings.get(given)).lower() if settings.on(given) else settings.get(given)
        raise UserError(
            f"{given}={value} is for fine-tuning, and {prefixes[0]} is text",
            fix="make the data with `meap preprocess sft`, or use a pre-training recipe",
        )
    if given is None and sft_data:
        raise UserError(
            f"{prefixes[0]} is data of `meap preprocess sft`, and no setting says that this run fine-tunes",
            fix="use a fine-tuning recipe, or set meap_sft=true",
        )
