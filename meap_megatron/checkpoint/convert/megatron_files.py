"""Read and write Megatron's `torch_dist` checkpoints tensor by tensor, through torch.distributed.checkpoint.

In such a checkpoint the layers are one tensor [layers, ...] per name (`decoder.layers.mlp.linear_fc2.weight`), stored in
chunks of one layer or less; a checkpoint whose `content_metadata` says `non_homogeneous_layers` has one name per layer
(`decoder.layers.7.mlp...`), and one of a hybrid model one per half of a block. All are read. Written are chunks of one layer
each, so that memory holds one layer's tensor.
Beside tensors Megatron's loader demands an `_extra_state` object per linear layer, and the object `common_state`.
"""

import argparse
import io
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from meap_megatron.checkpoint.convert.families import ALIASES, EXTRA_STATES, FINAL_EXTRA_STATE, NORM_EXTRA_STATES
from meap_megatron.checkpoint.convert.pickles import read_index, read_plain, untrusted
from meap_megatron.checkpoint.folder import RELEASE, TRACKER, iteration_folder, iterations, read_tracker
from meap_megatron.checkpoint.index import INDEX, extents
from meap_megatron.corpus.progress import Progress
from meap_megatron.errors import UserError

LAYERS = "decoder.layers."
COMMON = "common_state/shard_0_1"
LEGACY_COMMON = "common.pt"
DCP = "metadata.json"
CONTENT = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
"""What Megatron 0.19 says in `content_metadata` about how tensors are named."""


def find_checkpoint(folder: Path) -> Path:
    """Return the checkpoint that a folder holds: itself, the one its tracker names, or the newest.

    Raises:
        UserError: there is none.
    """
    if (folder / DCP).is_file():
        return folder
    name_one = "name the `save` folder of a run, an import, or one iter_NNNNNNN"
    if not folder.is_dir() or (folder / "config.json").is_file():
        what = "a Hugging Face folder" if folder.is_dir() else "a file" if folder.exists() else "not there"
        raise UserError(f"checkpoint {folder} is {what}", fix=name_one)
    tracker = read_tracker(folder)
    if tracker.release:
        found = folder / RELEASE
    else:
        steps = iterations(folder)
        step = tracker.iteration if tracker.iteration is not None else (steps[-1] if steps else None)
        if step is None:
            raise UserError(
                f"{folder} holds no checkpoint of Megatron: no {TRACKER} and no iter_* folder",
                fix=name_one,
            )
        found = iteration_folder(folder, step)
    if not (found / DCP).is_file():
        raise UserError(f"{found} is not a checkpoint of the format torch_dist: it has no {DCP}")
    return found


@dataclass(kw_only=True)
class Checkpoint:
    """A checkpoint that is open for reading.

    Attributes:
        path: the iter_* or release folder.
        index: torch's `Metadata`.
        common: what is not sharded: args, iteration, content_metadata.
        names: names of classes in its pickles that were not made (`pickles.untrusted` judges them).
    """

    path: Path
    index: Any
    common: dict[str, Any]
    names: set[str]
    _recent: OrderedDict[str, torch.Tensor] = field(default_factory=OrderedDict)

    @property
    def args(self) -> argparse.Namespace:
        """Megatron's arguments of the run that wrote it."""
        return self.common["args"]

    @property
    def iteration(self) -> int:
        """The step after which it was written; 0 for an imported one."""
        value = self.common.get("iteration", 0)
        return value if isinstance(value, int) else 0

    @property
    def is_hybrid(self) -> bool:
        """Whether attention and feed-forward part of a block are layers of their own."""
        return getattr(self.args, "hybrid_layer_pattern", None) is not None

    @property
    def per_layer(self) -> bool:
        """Whether every layer has names of its own."""
        return self.is_hybrid or f"{LAYERS}0.mlp.linear_fc2.weight" in self.index.state_dict_metadata

    def top_name(self, name: str) -> str:
        """Return the name under which a tensor outside the layers is stored, by its name in a GPT."""
        return name.replace("decoder.final_layernorm.", "decoder.final_norm.") if self.is_hybrid else name

    def entry(self, name: str) -> TensorStorageMetadata | None:
        """Return what the index says about a tensor."""
        found = self.index.state_dict_metadata.get(name)
        return found if isinstance(found, TensorStorageMetadata) else None

    def layer_name(self, suffix: str, layer: int) -> str | None:
        """Return the name under which a layer's tensor is stored, or None."""
        if self.is_hybrid:  # a pattern of blocks, which `spec_from_args` sees to
            layer = 2 * layer + suffix.startswith("mlp.")
        prefix = f"{LAYERS}{layer}." if self.per_layer else LAYERS
        candidates = [suffix, *([ALIASES[suffix]] if suffix in ALIASES else [])]
        return next((prefix + name for name in candidates if self.entry(prefix + name)), None)

    def read_layer(self, suffix: str, layer: int) -> torch.Tensor:
        """Return one layer's tensor by Megatron's name behind `decoder.layers.`; the last few are kept."""
        key = f"{layer}.{suffix}"
        if key not in self._recent:
            name = self.layer_name(suffix, layer)
            if name is None:
                raise UserError(f"{self.path} lacks {LAYERS}{suffix}; it is not a checkpoint of a Llama-like model")
            self._recent[key] = self.read(name) if self.per_layer else self.read(name, first=layer)
            while len(self._recent) > 2:
                self._recent.popitem(last=False)
        return self._recent[key]

    def read(self, name: str, *, first: int | None = None) -> torch.Tensor:
        """Return a tensor, or its part [first] along the first axis, read chunk by chunk.

        Raises:
            UserError: there is no such tensor, or its chunks do not cover it.
        """
        entry = self.entry(name)
        if entry is None:
            raise UserError(f"{self.path} lacks the tensor {name}")
        begin, end = [0] * len(entry.size), list(entry.size)
        if first is not None:
            begin[0], end[0] = first, first + 1
        result = torch.empty([b - a for a, b in zip(begin, end, strict=True)], dtype=entry.properties.dtype)
        covered = 0
        for chunk in entry.chunks:
            low = [max(a, o) for a, o in zip(begin, chunk.offsets, strict=True)]
            high = [min(b, o + n) for b, o, n in zip(end, chunk.offsets, chunk.sizes, strict=True)]
            if any(b <= a for a, b in zip(low, high, strict=True)):
                continue
            data = self._read_chunk(name, chunk.offsets)
            source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, chunk.offsets, strict=True))
            target = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, begin, strict=True))
            result[target] = data[source]
            covered += result[target].numel()
        if covered != result.numel():
            raise UserError(
                f"{self.path}: the chunks of {name} do not cover it; the checkpoint is incomplete",
                fix="use another checkpoint, or a copy of this one",
            )
        return result if first is None else result[0]

    def _read_chunk(self, name: str, offsets: torch.Size) -> torch.Tensor:
        place = self.index.storage_data.get(MetadataIndex(name, offsets))
        if place is None:
            raise UserError(f"{self.path}: the index does not say where {name} at {tuple(offsets)} lies")
        # weights_only: torch then makes tensors and nothing else.
        return torch.load(io.BytesIO(_read_bytes(self.path, place)), map_location="cpu", weights_only=True)

    def check_trusted(self) -> None:
        """Refuse a checkpoint that names code which Megatron's own never name; needed before torch unpickles it."""
        if strange := untrusted(self.names):
            raise UserError(f"{self.path} names {strange[0]}, which no checkpoint of Megatron does; it is not loaded")


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint in a folder; of its pickles nothing is run.

    Raises:
        UserError: there is none, it is damaged, or a file of tensors is missing or too short.
    """
    path = find_checkpoint(folder)
    index, names = read_index(path / INDEX)
    for name, size in sorted(extents(index).items()):
        file = path / name
        if Path(name).name != name:
            raise UserError(f"{path}: the index names a file outside of the checkpoint, {name}")
        if not file.is_file():
            raise UserError(
                f"{file} is missing; the checkpoint is incomplete", fix="use another checkpoint, or a copy of this one"
            )
        if file.stat().st_size < size:
            raise UserError(
                f"{file} is truncated: {file.stat().st_size:,} bytes, the index needs {size:,}",
                fix="use another checkpoint, or a copy of this one",
            )
    place = index.storage_data.get(MetadataIndex(COMMON))
    if place is not None:
        listed, more = read_plain(_read_bytes(path, place), source=f"{path}: {COMMON}")
        common = listed[0] if isinstance(listed, list) and listed else None
    elif (path / LEGACY_COMMON).is_file():
        common, more = read_plain((path / LEGACY_COMMON).read_bytes(), source=str(path / LEGACY_COMMON))
    else:
        raise UserError(f"{path} holds neither {COMMON} nor {LEGACY_COMMON}: the arguments of its run are unknown")
    if not isinstance(common, dict) or not isinstance(common.get("args"), argparse.Namespace):
        raise UserError(f"{path}: the arguments of the run are missing in its common state")
    return Checkpoint(path=path, index=index, common=common, names=names | more)


def _read_bytes(path: Path, place: Any) -> bytes:
    with (path / place.relative_path).open("rb") as stream:
        stream.seek(place.offset)
        return stream.read(place.length)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One piece of a tensor to be written, made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]
    """Returns the piece, of shape `sizes`."""

    @property
    def num_bytes(self) -> int:
        """Return the size of the piece."""
        return torch.Size(self.sizes).numel() * self.dtype.itemsize


class _Planner(DefaultSavePlanner):
    """Hands torch's writer the chunks one after the other instead of a state dict."""

    def __init__(self, chunks: Iterable[Chunk], objects: dict[str, Any]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.objects = objects
        self.chunks = {MetadataIndex(c.name, torch.Size(c.offsets)): c for c in chunks}
        self.progress = Progress(sum(chunk.num_bytes for chunk in self.chunks.values()), verb="import")

    def create_local_plan(self) -> SavePlan:
        items = [
            WriteItem(
                index=index,
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(offsets=torch.Size(c.offsets), sizes=torch.Size(c.sizes)),
                    properties=TensorProperties(dtype=c.dtype),
                    size=torch.Size(c.shape),
                ),
            )
            for index, c in self.chunks.items()
        ]
        items += [WriteItem(index=MetadataIndex(name), type=WriteItemType.BYTE_IO) for name in self.objects]
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            stream = io.BytesIO()
            torch.save([self.objects[write_item.index.fqn]], stream)
            return stream
        key = MetadataIndex(write_item.index.fqn, write_item.index.offset)
        self.progress.copied(self.chunks[key].num_bytes)
        return self.chunks[key].make()


def write_checkpoint(path: Path, chunks: Iterable[Chunk], *, args: argparse.Namespace, num_layers: int) -> None:
    """Write a checkpoint folder that Megatron loads as a release: weights, and no state of any run.

    Args:
        chunks: all pieces of all tensors, made one at a time.
        args: what `--use-checkpoint-args` reads.
    """
    import torch.distributed.checkpoint as dcp

    path.mkdir(parents=True)
    # Transformer Engine's norm calls numel() on its state; Megatron's local norm has none and ignores it.
    nothing = torch.empty(0, dtype=torch.uint8)

    def states(modules: Iterable[str], state: Any) -> dict[str, Any]:
        names = [f"{module}._extra_state/shard_{n}_{num_layers}" for n in range(num_layers) for module in modules]
        return {LAYERS + name: state for name in names}

    objects = states(EXTRA_STATES, None) | {f"{FINAL_EXTRA_STATE}._extra_state/shard_0_1": nothing}
    if getattr(args, "qk_layernorm", False):
        objects |= states(NORM_EXTRA_STATES, nothing)
    objects[COMMON] = {
        "args": args,
        "checkpoint_version": 3.0,
        "iteration": 0,
        "num_floating_point_operations_so_far": 0.0,
        "content_metadata": dict(CONTENT),
    }
    planner = _Planner(chunks, objects)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            dcp.save({}, storage_writer=FileSystemWriter(path), planner=planner, no_dist=True)
        except CheckpointException as error:
            # It wraps what happened (a full disk, a file that shrank) once per rank; there is one.
            raise next(iter(error.failures.values()))[0] from None
    planner.progress.finish(always=False)
    (path / DCP).write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
