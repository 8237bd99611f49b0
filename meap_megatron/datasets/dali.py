"""The micro-batches of a dataset through a pipeline of NVIDIA DALI, in the order of Megatron's own sampler.

A thread makes the next micro-batches while the model computes: `MEAPGPTDataset` assembles one in C++ without the
interpreter, so no worker processes are needed, nothing is pickled, and waiting for a page of the data that is not in memory
holds up nobody. It is one thread because Megatron's own path, which some options take, is not made for several. The pipeline
copies the micro-batches to the GPU on a stream of its own, ahead of the step.
Price: one more copy in the host's memory; what it gains on a CPU is in docs/benchmarks/loader.md.

The GPU side has never been run.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

DEPTH = 2
"""Micro-batches that the pipeline holds ready."""
AHEAD = 4
"""Micro-batches that the thread makes beyond those."""
ON_HOST = ("cu_seqlens", "max_seqlen", "num_segments")
"""Fields that stay in the host's memory: the step reads them before it asks anything of the GPU."""


class DaliLoader(Iterator[dict[str, torch.Tensor]]):
    """Iterates once over micro-batches.

    What Megatron calls an external dataloader: `next` gives a dictionary of tensors, equal to that of torch's DataLoader
    with the same batch sampler, on the GPU if there is one, but for `ON_HOST`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[Sequence[int]],
        *,
        micro_batch_size: int,
        device_id: int | None,
    ) -> None:
        """Nothing is read before the first `next`.

        Args:
            dataset: a map from index to a dictionary of tensors.
            batches: indices of each micro-batch, in order, all of `micro_batch_size`; it decides where to begin.
            micro_batch_size: samples.
            device_id: GPU on which the tensors shall be; None: the host's memory.
        """
        self._dataset: Any = dataset
        self._batches = iter(batches)
        self._micro_batch_size = micro_batch_size
        self._device_id = device_id
        self._pending: deque[Future[dict[str, torch.Tensor]]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._names: list[str] = []
        self._pipeline: Any = None

    def __next__(self) -> dict[str, torch.Tensor]:
        """Return the next micro-batch: name -> [micro_batch_size, ...].

        Raises:
            StopIteration: there is no other, now and ever after.
            UserError: the data or its index is damaged.
        """
        if self._pipeline is None:
            self._pipeline = self._start()
        from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor

        # A tensor on the GPU is copied once more on torch's current stream: its memory then belongs to torch, which
        # knows when the last kernel that reads it has ended. On the host the outputs are theirs who hold them.
        copy = self._device_id is not None
        outputs = self._pipeline.run()
        return {
            name: to_torch_tensor(output.as_tensor(), copy) for name, output in zip(self._names, outputs, strict=True)
        }

    def _start(self) -> Any:
        """Start the thread and build the pipeline: one output per field of the first micro-batch."""
        from nvidia.dali import fn
        from nvidia.dali.pipeline import Pipeline

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meap-loader")
        self._fill()
        if not self._pending:
            raise StopIteration
        self._names = list(self._pending[0].result())
        pipeline = Pipeline(
            batch_size=self._micro_batch_size,
            num_threads=1,  # it only hands on and copies
            device_id=self._device_id,
            prefetch_queue_depth=DEPTH,
            exec_dynamic=True,  # outputs own their memory
        )
        with pipeline:
            outputs = fn.external_source(source=self._arrays, num_outputs=len(self._names), batch=True)
            on_gpu = [self._device_id is not None and name not in ON_HOST for name in self._names]
            pipeline.set_outputs(*(o.gpu() if there else o for o, there in zip(outputs, on_gpu, strict=True)))
        pipeline.build()
        return pipeline

    def _arrays(self) -> tuple[np.ndarray, ...]:
        """Return the fields of the next micro-batch, in order; the pipeline calls this ahead of time."""
        self._fill()
        if not self._pending:
            raise StopIteration
        fields = self._pending.popleft().result()
        return tuple(fields[name].numpy() for name in self._names)

    def _fill(self) -> None:
        """Give the thread the next micro-batches, in order."""
        assert self._thread is not None
        while len(self._pending) < AHEAD:
            indices = next(self._batches, None)
            if indices is None:
                return
            self._pending.append(self._thread.submit(self._make, list(indices)))

    def _make(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return a micro-batch as torch's DataLoader makes it."""
        many = getattr(self._dataset, "__getitems__", None)
        return default_collate(many(indices) if many is not None else [self._dataset[index] for index in indices])
