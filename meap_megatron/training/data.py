"""The dataset provider: Megatron's arguments in, train, validation and test datasets out."""

import atexit
import gc
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.launch.runtime import resolve_device
from meap_megatron.training import index_cache
from meap_megatron.training.dataset_settings import dataset_config, index_request
from meap_megatron.training.loader import external_loaders


def make_provider(
    args: Any, sidecars: list[Sidecar], on_first_call: Callable[[], None], screen: TextIO
) -> Callable[..., Any]:
    """Return Megatron's `train_valid_test_dataset_provider`; the indices of the run are put into the cache first.

    Args:
        sidecars: one per prefix of `data_prefixes(args)`; empty with mock data.
        on_first_call: called once, when the model is built and a checkpoint, if any, is loaded.
        screen: is told about an index that had to be built.
    """
    called: list[bool] = []
    # Mock data is not cached, and its tokenizer is there later than this.
    wanted = index_request(args, sidecars) if sidecars else None
    entry = index_cache.prepare(wanted, screen) if wanted else None

    def provider(num_samples: list[int | None], vp_stage: int | None = None) -> Any:
        from meap_megatron.datasets.provider import build_datasets
        from meap_megatron.training.batch import reads_data

        if not called:
            called.append(True)
            on_first_call()
        config = dataset_config(args, sidecars)
        if wanted and entry:
            # Only a run that continues in a later phase of phase_transition_iterations asks for other samples than it did
            # before its checkpoint was read; Megatron then writes its own index files beside the entries.
            prepared = list(num_samples) == wanted.sizes
            config.path_to_cache = str(entry if prepared else entry.parent)
        datasets = build_datasets(
            config,
            sizes=list(num_samples),
            is_built_on_rank=partial(reads_data, args.dataloader_inter_document_masking, vp_stage),
        )
        if args.dataloader_type == "external":
            reads = [
                (args.consumed_train_samples, args.micro_batch_size),
                (0 if args.skip_train else args.consumed_valid_samples, args.eval_micro_batch_size),
                (0, args.eval_micro_batch_size),
            ]
            return external_loaders(datasets, reads, device=resolve_device(args.meap_device))
        if args.num_workers > 0:
            # A full garbage collection writes to every object; in a loader worker that is a copy of each page that it
            # shares with this process since the fork (docs/benchmarks/soak.md).
            gc.collect()
            gc.freeze()
            # Frozen cycles outlive the interpreter: Triton's bindings would report all that they still hold as leaked.
            atexit.register(gc.unfreeze)
        return datasets

    provider.is_distributed = True  # type: ignore[attr-defined]
    return provider
