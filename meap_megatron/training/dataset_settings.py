"""From Megatron's arguments and the sidecars to the configuration of the datasets and the folders of their indices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.config import MaskConfig
from meap_megatron.datasets.mask_stage import config_of_data
from meap_megatron.declared import from_args
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.launch.blend import data_prefixes
from meap_megatron.launch.data_sidecars import is_sft
from meap_megatron.launch.sft_settings import sft_config
from meap_megatron.masking.corruption import Corruption


def mask_config(args: Any, sidecars: list[Sidecar]) -> MaskConfig:
    """Return the masking settings of a run; without sidecars, those for mock data."""
    fields = from_args(MaskConfig, args) | {"global_batch_size": args.global_batch_size}
    fields["seed"] = args.seed if fields["seed"] is None else fields["seed"]
    if args.meap_mask_token_id is not None:
        fields["mask_id"] = args.meap_mask_token_id
    if sidecars:
        tokenizer = sidecars[0].tokenizer
        special = (tokenizer.bos_id, tokenizer.eos_id) if args.meap_protect_special else ()
        fields["protected_ids"] = tuple(i for i in special if i is not None)
        return config_of_data(data_prefixes(args)[0], sidecars[0], **fields)
    if Corruption.parse(args.meap_corruption).random > 0:
        raise UserError(f"meap_corruption={args.meap_corruption} draws tokens of a tokenizer, and mock data has none")
    # Mock data holds the ids of the placeholder vocabulary; the first row above them, if there is one, is free.
    return MaskConfig(**{"mask_id": min(args.vocab_size, args.padded_vocab_size - 1)} | fields)


def check_vocabulary(rows: int, sidecars: list[Sidecar], prefixes: list[str]) -> None:
    """Refuse data whose ids an embedding table of so many rows does not hold."""
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        if sidecar.tokenizer.vocab_size > rows:
            raise UserError(
                f"{prefix} holds ids up to {sidecar.tokenizer.vocab_size - 1} ([MASK] is {sidecar.tokenizer.mask_id}), but "
                f"the model has {rows} rows",
                fix="leave vocab_size and tokenizer_type out, so that they are "
                "read from the data, or give the tokenizer that made it",
            )


def dataset_config(args: Any, sidecars: list[Sidecar]) -> Any:
    """Return the `MEAPGPTDatasetConfig` or `MEAPSFTDatasetConfig` of a run; the cache is the first it may use."""
    from megatron.training import get_tokenizer
    from megatron.training.utils import get_blend_and_blend_per_split

    from meap_megatron.datasets.gpt import MEAPGPTDatasetConfig
    from meap_megatron.datasets.sft.dataset import MEAPSFTDatasetConfig
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer

    blend, blend_per_split = get_blend_and_blend_per_split(args)
    settings = {
        "tokenizer": DatasetTokenizer(sidecars[0].tokenizer) if sidecars else get_tokenizer(),
        "mark_changes": True,
        "random_seed": args.seed,
        "sequence_length": args.seq_length,
        "blend": blend,
        "blend_per_split": blend_per_split,
        "split": args.split,
        "num_dataset_builder_threads": args.num_dataset_builder_threads,
        "path_to_cache": next(iter(map(str, cache_folders(args))), None),
        "mid_level_dataset_surplus": args.mid_level_dataset_surplus,
    }
    if is_sft(sidecars):
        return MEAPSFTDatasetConfig(**settings, sft=sft_config(args, sidecars[0], data_prefixes(args)[0]))
    return MEAPGPTDatasetConfig(
        **settings,
        meap=mask_config(args, sidecars),
        pairs=args.meap_pair == "clean+masked",
        multiple_validation_sets=args.multiple_validation_sets,
        full_validation=args.full_validation,
        mmap_bin_files=args.mmap_bin_files,
        reset_position_ids=args.reset_position_ids,
        reset_attention_mask=args.reset_attention_mask,
        eod_mask_loss=args.eod_mask_loss,
        create_attention_mask=args.create_attention_mask_in_dataloader,
        fast_cache_load=args.dataloader_fast_cache_load,
        defer_npy_index_mmap=args.dataloader_defer_npy_index_mmap,
        context_parallel_size=args.context_parallel_size,
        data_parallel_size=args.data_parallel_size,
        inter_document_masking=args.dataloader_inter_document_masking,
    )


def cache_folders(args: Any) -> list[Path]:
    """Return the folders in which the indices of a run may be kept, in the order in which they are looked for.

    As given; else beside the first prefix, as Megatron does, and in the run's own folder if that cannot be written.
    """
    if args.data_cache_path:
        return [Path(args.data_cache_path)]
    prefixes = data_prefixes(args)
    if not prefixes:
        return []
    beside = Path(prefixes[0]).resolve().parent / "cache" / "meap_megatron"
    return [beside, *([Path(args.save) / "cache"] if args.save else [])]


@dataclass(frozen=True, kw_only=True)
class IndexRequest:
    """The sample index that a run asks for."""

    config: Any
    """`MEAPGPTDatasetConfig` or `MEAPSFTDatasetConfig`."""
    sizes: list[int | None]
    """Samples of the train, validation and test split."""
    folders: list[Path]
    """Caches in which it may be, the first wanted most."""


def index_request(args: Any, sidecars: list[Sidecar]) -> IndexRequest:
    """Return what a run asks for.

    Raises:
        UserError: neither steps nor samples are given.
    """
    return IndexRequest(config=dataset_config(args, sidecars), sizes=num_samples(args), folders=cache_folders(args))


def num_samples(args: Any) -> list[int | None]:
    """Return the samples of the train, validation and test split, from Megatron's own rule.

    Args:
        args: those of Megatron's globals; `iteration` is 0, no checkpoint has been read.

    Raises:
        UserError: neither steps nor samples are given.
    """
    from megatron.training.training import get_train_valid_test_num_samples, update_train_iters

    if not args.train_iters and not args.train_samples:
        raise UserError("the length of the run is not given", fix="set train_iters, train_samples or meap_epochs")
    given = args.train_iters
    try:
        update_train_iters(args)
        return list(get_train_valid_test_num_samples())
    finally:
        args.train_iters = given  # with train_samples, Megatron tells by it which of the two was given
