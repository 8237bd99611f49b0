"""What a rank would write into a checkpoint, and whether the checkpoint that the job begins with fits the model."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.atomic import existing_parent
from meap_megatron.checkpoint.folder import iteration_folder
from meap_megatron.checkpoint.index import INDEX
from meap_megatron.errors import UserError
from meap_megatron.layer_pattern import layers_of
from meap_megatron.rehearsal.rank_model import moment_bytes

LAYERS = "decoder.layers."
GPT_NORM = "decoder.final_layernorm.weight"
"""A tensor that a GPT's checkpoint has and a hybrid model's has under another name."""


@dataclass(frozen=True, kw_only=True)
class SaveSettings:
    """What decides what a rank saves and how much of it, under the names of Megatron's parser."""

    save: str | None
    save_interval: int
    train_iters: int
    meap_keep_checkpoints: int | None
    ckpt_fully_parallel_save: bool
    no_save_optim: bool | None
    use_distributed_optimizer: bool
    params_dtype: Any
    """A torch.dtype."""
    padded_vocab_size: int
    hidden_size: int
    untie_embeddings_and_output_weights: bool
    hybrid_layer_pattern: str | None
    data_parallel_size: int
    context_parallel_size: int
    rank: int


def sharded_tensors(parts: list[Any]) -> list[Any]:
    """Return Megatron's description of every tensor of the model's parts as a checkpoint holds them."""
    from megatron.core import mpu
    from megatron.training.training import unwrap_model

    metadata = {"dp_cp_group": mpu.get_data_parallel_group(with_context_parallel=True)}
    return [tensor for part in unwrap_model(parts) for tensor in leaves(part.sharded_state_dict(metadata=metadata))]


def leaves(value: Any) -> Iterator[Any]:
    """Yield the tensors of a sharded state dict; what one parameter becomes several of (gate and up) one by one."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, ShardedTensorFactory):
        yield from leaves(value.build())
    elif isinstance(value, ShardedTensor):
        yield value


def bytes_per_parameter(settings: SaveSettings, optimizer: Any) -> int:
    """Return the bytes that a checkpoint holds per parameter: the weight, the main parameter, both moments."""
    weight = int(settings.params_dtype.itemsize)
    if settings.no_save_optim:
        return weight
    # In float32 only the distributed optimizer has main parameters of its own.
    main = 0 if weight == 4 and not settings.use_distributed_optimizer else 4
    return weight + main + moment_bytes(optimizer)


def parameters_of_model(settings: SaveSettings, tensors: list[Any]) -> int | None:
    """Return the parameters of the whole model, from the global shapes that this rank's part of it names.

    Every stage with a layer knows the shapes of all layers; the tables of the other stages follow from the settings. A
    stage of a hybrid model knows its own layers, and those of the same kinds. None on a stage that knows too little.
    """
    rows = settings.padded_vocab_size * settings.hidden_size
    tables = {"embedding.word_embeddings.weight": rows, "decoder.final_layernorm.weight": settings.hidden_size}
    if settings.untie_embeddings_and_output_weights:
        tables["output_layer.weight"] = rows
    layers = {t.key: math.prod(t.global_shape) for t in tensors if t.key.startswith(LAYERS)}
    if settings.hybrid_layer_pattern is not None:
        pattern = layers_of(settings.hybrid_layer_pattern)
        known: dict[str, dict[int, int]] = {}
        for key, count in layers.items():
            number = int(key.removeprefix(LAYERS).partition(".")[0])
            of_kind = known.setdefault(pattern[number], {})
            of_kind[number] = of_kind.get(number, 0) + count
        if set(known) != set(pattern):
            return None
        return sum(tables.values()) + sum(next(iter(known[symbol].values())) for symbol in pattern)
    return sum((layers | tables).values()) if layers else None


def plan(settings: SaveSettings, tensors: list[Any], optimizer: Any, *, step: int) -> dict[str, Any] | None:
    """Return what this run would save: when, where, how much in all and by this rank; None without `save`."""
    if not settings.save:
        return None
    ranks = settings.data_parallel_size * settings.context_parallel_size if settings.ckpt_fully_parallel_save else 1
    per_parameter = bytes_per_parameter(settings, optimizer)
    # A tensor that several tensor-parallel ranks hold is written by one of them.
    own = sum(math.prod(t.local_shape) for t in tensors if not any(replica(t)[:-1]))
    whole = parameters_of_model(settings, tensors)
    writes = ranks > 1 or all(not replica(t)[-1] for t in tensors)
    steps, every = settings.train_iters, settings.save_interval
    return {
        "folder": settings.save,
        "every": every,
        "first": str(iteration_folder(Path(settings.save), min((step // every + 1) * every, steps))),
        "checkpoints": -(-steps // every) - step // every,
        "keep": settings.meap_keep_checkpoints,
        "bytes": None if whole is None else whole * per_parameter,
        "bytes_of_rank": own * per_parameter // ranks if writes else 0,
        "files_of_rank": f"__{settings.rank}_*.distcp",
        "free_bytes": free_bytes(Path(settings.save)),
    }


def replica(tensor: Any) -> tuple[int, ...]:
    """Return which copy of a tensor this rank holds, one number per dimension of the layout, the last for data parallel."""
    number = tensor.replica_id
    return (number,) if isinstance(number, int) else tuple(number)


def free_bytes(folder: Path) -> int:
    """Return the free space of the file system on which a folder lies or would be made."""
    return shutil.disk_usage(existing_parent(folder)).free


def as_of_gpt(tensors: list[Any], pattern: str, checkpoint: Path) -> list[Any]:
    """Return the tensors of a hybrid model as Megatron looks for them in a checkpoint of a GPT.

    Raises:
        UserError: the pattern is not one attention and one feed-forward layer for each block of a GPT.
    """
    from megatron.core.dist_checkpointing import gpt_checkpoint_interop as interop

    try:
        maps = interop.gpt_compatible_layer_maps(pattern)
    except ValueError as error:
        raise UserError(f"the checkpoint {checkpoint} is of a GPT, and this model cannot take it: {error}") from None
    found = {"tensors": [dataclasses.replace(tensor) for tensor in tensors]}
    interop.retarget_sharded_state_dict_to_gpt_checkpoint(found, maps)
    return list(leaves(found))


def compare(checkpoint: Path, tensors: list[Any], pattern: str | None) -> int | None:
    """Compare a checkpoint with the tensors of this rank and return how many of them it has; None if it has no index.

    Args:
        checkpoint: .../iter_0000100
        pattern: of the layers of a hybrid model.

    Raises:
        UserError: it lacks some, or has them in other shapes.
    """
    from meap_megatron.checkpoint.convert.pickles import read_index

    if not (checkpoint / INDEX).is_file():
        return None
    stored = read_index(checkpoint / INDEX)[0].state_dict_metadata
    shapes = {key: tuple(entry.size) for key, entry in stored.items() if hasattr(entry, "size")}
    if pattern is not None and GPT_NORM in shapes:
        tensors = as_of_gpt(tensors, pattern, checkpoint)
    wrong = []
    wanted = {tensor.key: tensor for tensor in tensors}
    for key, tensor in wanted.items():
        if key not in shapes:
            wrong.append(f"{key} is missing")
        elif (found := shapes[key]) != tuple(tensor.global_shape):
            if tensor.allow_shape_mismatch and found[1:] == tuple(tensor.global_shape)[1:]:
                continue  # Megatron takes the rows that both have: vocabularies padded differently
            wrong.append(f"{key} is {list(found)}, the model has {list(tensor.global_shape)}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"the checkpoint {checkpoint} is not of this model: {'; '.join(wrong[:3])}{more}")
    return len(wanted)
