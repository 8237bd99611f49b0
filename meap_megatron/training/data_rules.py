"""Megatron's data settings that our datasets do not read, refused by name before anything trains on something else."""

from collections.abc import Iterator

from meap_megatron.training import blend
from meap_megatron.training.settings import Settings

UNREAD: tuple[tuple[str, str, str], ...] = (
    (
        "fim_data",
        "fill-in-the-middle rearranges a sample before it is masked, which these datasets do not do",
        "leave it out",
    ),
    (
        "sft",
        "this is Megatron's own fine-tuning on conversations, which these datasets do not read",
        "make the data with `meap preprocess sft`; the run then knows by itself that it fine-tunes",
    ),
    (
        "per_dataset_sequences_path",
        "the sizes of datasets are read from the datasets themselves, which are opened to check them",
        "leave it out; `meap cache` builds the sample index before a large job",
    ),
    (
        "object_storage_cache_path",
        "datasets are read from a file system that all nodes see, not from an object store",
        "copy or mount the data",
    ),
    (
        "allow_ambiguous_pad_tokens",
        "padding is [MASK], an id that no document has, so that no token of the data is ever taken for padding",
        "leave it out",
    ),
    (
        "hybrid_context_parallel",
        "its sampler sorts and splits samples by length, which these do not offer",
        "leave it out",
    ),
    (
        "logits_load_dir",
        "distillation takes the place of the loss that masked inputs are trained with",
        "leave it out",
    ),
    ("logits_save_dir", "logits of masked inputs are not those of the text", "leave it out"),
)
"""Setting, why it would do nothing or something else, and what to do."""

REMOTE = ("s3://", "msc://")
PATHS = (*blend.DATA_KEYS, "data_args_path", "per_split_data_args_path", "data_cache_path")


def of_data(settings: Settings) -> Iterator[str]:
    """Yield settings of data that would silently do nothing, or end in a bare assert."""
    for name, why, remedy in UNREAD:
        if settings.has(name):
            yield f"{settings.where(name)}{flag(name)} is not supported: {why}; {remedy}"
    for name in PATHS:
        value = settings.get(name)
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and word.startswith(REMOTE):
                yield (
                    f"{settings.where(name)}{flag(name)} {word}: datasets are read from a file system that all nodes see, "
                    "not from an object store; copy or mount the data"
                )
    if settings.on("dataloader_fast_cache_load"):
        for name in ("data_path", "data_args_path"):
            if settings.has(name):
                yield (
                    f"{settings.where(name)}{flag('dataloader_fast_cache_load')} needs one blend per split, and "
                    f"{flag(name)} is one for all; give --train-data-path, --valid-data-path and --test-data-path, or leave "
                    "it out: the sample index is built once and reused anyway"
                )


def flag(name: str) -> str:
    """Return a setting as it is typed on the command line."""
    return f"--{name.replace('_', '-')}"
