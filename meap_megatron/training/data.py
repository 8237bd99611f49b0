"""The dataset provider: Megatron's arguments in, train, validation and test datasets out."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.config import MaskConfig
from meap_megatron.errors import UserError
from meap_megatron.indexed.ordinary_ids import ordinary_ids
from meap_megatron.indexed.sidecar import Sidecar, check_prefix
from meap_megatron.launch.blend import data_prefixes
from meap_megatron.masking.corruption import Corruption
from meap_megatron.training import index_cache, sft
from meap_megatron.training.loader import external_loaders
from meap_megatron.training.platform import resolve_device


def read_sidecars(prefixes: list[str]) -> list[Sidecar]:
    """Check every prefix cheaply and return the sidecars.

    Raises:
        UserError: a file is missing or of the wrong size, or two prefixes were made with different tokenizers.
    """
    sidecars = [check_prefix(prefix) for prefix in prefixes]
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        if sidecar.tokenizer.fingerprint != sidecars[0].tokenizer.fingerprint:
            raise UserError(
                f"{prefix} was tokenised with another tokenizer ({sidecar.tokenizer.fingerprint[:12]}) than {prefixes[0]} "
                f"({sidecars[0].tokenizer.fingerprint[:12]}); a blend needs one tokenizer: run `meap preprocess` again"
            )
    return sidecars


def mask_config(args: Any, sidecars: list[Sidecar]) -> MaskConfig:
    """Return the masking settings of a run; without sidecars, those for mock data."""
    special: tuple[int | None, ...] = ()
    if sidecars:
        tokenizer = sidecars[0].tokenizer
        mask_id = tokenizer.mask_id
        if args.meap_protect_special:
            special = (tokenizer.bos_id, tokenizer.eos_id)
    else:
        # Mock data holds the ids of the placeholder vocabulary; the first row above them, if there is one, is free.
        mask_id = min(args.vocab_size, args.padded_vocab_size - 1)
    if args.meap_mask_token_id is not None:
        mask_id = args.meap_mask_token_id
    draws_tokens = Corruption.parse(args.meap_corruption).random > 0
    if draws_tokens and not sidecars:
        raise UserError(f"meap_corruption={args.meap_corruption} draws tokens of a tokenizer, and mock data has none")
    return MaskConfig(
        mask_id=mask_id,
        ratio=args.meap_mask_ratio,
        clean_fraction=args.meap_clean_fraction,
        corruption=args.meap_corruption,
        ordinary=ordinary_ids(data_prefixes(args)[0], sidecars[0]) if draws_tokens else None,
        skip_first=args.meap_skip_first,
        min_document_tokens=args.meap_min_document_tokens,
        strategy=args.meap_mask_strategy,
        span_length=args.meap_span_length,
        seed=args.seed if args.meap_mask_seed is None else args.meap_mask_seed,
        mask_validation=args.meap_mask_validation,
        protected_ids=tuple(i for i in special if i is not None),
        global_batch_size=args.global_batch_size,
    )


def check_vocabulary(args: Any, sidecars: list[Sidecar], prefixes: list[str]) -> None:
    """Refuse data whose ids the embedding table does not hold.

    Raises:
        UserError: an id of the data, or `[MASK]`, lies outside the padded vocabulary.
    """
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        if sidecar.tokenizer.vocab_size > args.padded_vocab_size:
            raise UserError(
                f"{prefix} holds ids up to {sidecar.tokenizer.vocab_size - 1} ([MASK] is {sidecar.tokenizer.mask_id}), but "
                f"the model has {args.padded_vocab_size} rows; leave vocab_size and tokenizer_type out, so that they are "
                "read from the data, or give the tokenizer that made it"
            )


def make_provider(
    args: Any, sidecars: list[Sidecar], on_first_call: Callable[[], None], screen: TextIO
) -> Callable[..., Any]:
    """Return Megatron's `train_valid_test_dataset_provider`; the indices of the run are put into the cache first.

    Args:
        args: Megatron's arguments.
        sidecars: one per prefix of `data_prefixes(args)`; empty with mock data.
        on_first_call: called once, when the model is built and a checkpoint, if any, is loaded.
        screen: is told about an index that had to be built.
    """
    called: list[bool] = []
    ready = index_cache.prepare(args, sidecars, screen)

    def provider(num_samples: list[int | None], vp_stage: int | None = None) -> Any:
        from meap_megatron.datasets.provider import build_datasets
        from meap_megatron.training.batch import reads_data

        if not called:
            called.append(True)
            on_first_call()
        config = dataset_config(args, sidecars)
        if ready is not None:
            # Only a run that goes on in a later phase of phase_transition_iterations asks for other samples than it did
            # before its checkpoint was read; Megatron then writes its own index files beside the entries.
            prepared = list(num_samples) == ready.sizes
            config.path_to_cache = str(ready.path if prepared else ready.path.parent)
        datasets = build_datasets(
            config, sizes=list(num_samples), is_built_on_rank=partial(reads_data, args, vp_stage)
        )
        if args.dataloader_type == "external":
            return external_loaders(args, datasets, device=resolve_device(args.meap_device))
        if args.num_workers > 0:
            # A full garbage collection writes to every object; in a loader worker that is a copy of each page that it
            # shares with this process since the fork (docs/benchmarks/soak.md).
            gc.collect()
            gc.freeze()
        return datasets

    provider.is_distributed = True  # type: ignore[attr-defined]
    return provider


def dataset_config(args: Any, sidecars: list[Sidecar]) -> Any:
    """Return the `MEAPGPTDatasetConfig` or `MEAPSFTDatasetConfig` of a run; the cache is the first it may use."""
    folder = next(iter(map(str, cache_folders(args))), None)
    if is_sft(sidecars):
        return sft.dataset_config(args, sidecars, path_to_cache=folder)
    from megatron.training import get_tokenizer
    from megatron.training.utils import get_blend_and_blend_per_split

    from meap_megatron.datasets.gpt import MEAPGPTDatasetConfig
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer

    blend, blend_per_split = get_blend_and_blend_per_split(args)
    settings = {
        "tokenizer": DatasetTokenizer(sidecars[0].tokenizer) if sidecars else get_tokenizer(),
        "meap": mask_config(args, sidecars),
        "mark_changes": True,
        "pairs": args.meap_pair == "clean+masked",
        "random_seed": args.seed,
        "sequence_length": args.seq_length,
        "blend": blend,
        "blend_per_split": blend_per_split,
        "split": args.split,
        "multiple_validation_sets": args.multiple_validation_sets,
        "full_validation": args.full_validation,
        "num_dataset_builder_threads": args.num_dataset_builder_threads,
        "path_to_cache": folder,
        "mmap_bin_files": args.mmap_bin_files,
        "reset_position_ids": args.reset_position_ids,
        "reset_attention_mask": args.reset_attention_mask,
        "eod_mask_loss": args.eod_mask_loss,
        "create_attention_mask": args.create_attention_mask_in_dataloader,
        "mid_level_dataset_surplus": args.mid_level_dataset_surplus,
        "fast_cache_load": args.dataloader_fast_cache_load,
        "defer_npy_index_mmap": args.dataloader_defer_npy_index_mmap,
        "context_parallel_size": args.context_parallel_size,
        "data_parallel_size": args.data_parallel_size,
        "inter_document_masking": args.dataloader_inter_document_masking,
    }
    return MEAPGPTDatasetConfig(**settings)


def is_sft(sidecars: list[Sidecar]) -> bool:
    """Tell whether the data is for fine-tuning.

    Raises:
        UserError: some of it is and some is not.
    """
    kinds = {sidecar.kind for sidecar in sidecars}
    if len(kinds) > 1:
        raise UserError(f"data_path mixes {' and '.join(sorted(kinds))} data; a run reads one kind")
    return kinds == {"sft"}


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
