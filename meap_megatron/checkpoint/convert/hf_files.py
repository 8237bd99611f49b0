"""Read and write safetensors files one tensor at a time, with plain reads and writes.

The library maps whole files into memory, whose pages count as ours until the file is closed; with plain reads the memory
is that of one tensor. A file is: 8 bytes (length of the header, little endian), the header (JSON: name -> dtype, shape,
place), the data. `write_shard` orders tensors and header as the library does, so that its files are byte-equal.
"""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meap_megatron.errors import UserError, refuse_pointer

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100_000_000  # bytes, as the library's


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one tensor lies."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    size: int
    """Bytes."""


def read_header(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Return (tensors of a file by name, its metadata), after checking the file against its header.

    Raises:
        UserError: the file is shorter or longer than its header says, or the header is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 0 <= length <= min(HEADER_LIMIT, size - 8):
                refuse_pointer(path)
                raise UserError(
                    f"{path} is truncated or not a safetensors file: {size:,} bytes, a header of {length:,}"
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: the header is not JSON ({error})", fix="download the file again") from None
    metadata = header.pop("__metadata__", {})
    places: dict[str, Place] = {}
    end = 0
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{path}: tensor {name} has type {entry['dtype']}; one of {', '.join(DTYPES)} is converted"
            )
        first, last = entry["data_offsets"]
        shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
        if last - first != torch.Size(shape).numel() * dtype.itemsize:
            raise UserError(f"{path}: tensor {name} has {last - first:,} bytes, which its shape {shape} does not need")
        places[name] = Place(file=path, dtype=dtype, shape=shape, start=8 + length + first, size=last - first)
        end = max(end, last)
    if size != 8 + length + end:
        kind = "truncated" if size < 8 + length + end else "longer than it should be"
        raise UserError(
            f"{path} is {kind}: {size:,} bytes, its header says {8 + length + end:,}", fix="download the file again"
        )
    return places, metadata


@dataclass(frozen=True, kw_only=True)
class HfTensors:
    """All tensors of a model folder.

    Attributes:
        places: name -> where it lies.
        files: file name -> the tensors it holds, in the order of the header.
        metadata: file name -> the metadata in its header.
    """

    places: dict[str, Place]
    files: dict[str, list[str]]
    metadata: dict[str, dict[str, str]]

    def read(self, name: str, *, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """Return one tensor, or the rows [first, last) of it, in memory of its own."""
        place = self.places[name]
        first, last = rows or (0, place.shape[0])
        row = place.size // place.shape[0]  # bytes
        storage = torch.empty((last - first) * row, dtype=torch.uint8)
        with place.file.open("rb", buffering=0) as stream:
            stream.seek(place.start + first * row)
            view = memoryview(storage.numpy())
            while len(view):
                count = stream.readinto(view)
                if not count:
                    raise UserError(
                        f"{place.file} ended inside tensor {name}; it was changed while it was read",
                        fix="run the same command again when nothing writes there",
                    )
                view = view[count:]
        return storage.view(place.dtype).reshape(last - first, *place.shape[1:])


def open_folder(folder: Path) -> HfTensors:
    """Read the headers of a model's files and check that none is missing or cut.

    Raises:
        UserError: a shard is missing or truncated, or the folder holds pickles only.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{index} is not an index of safetensors files: {error}", fix="download it again"
            ) from None
        names = sorted(set(weight_map.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder / missing[0]} is missing ({len(missing)} of {len(names)} files that {INDEX} names)",
                fix="download the missing files",
            )
    elif (folder / SINGLE).is_file():
        weight_map, names = {}, [SINGLE]
    else:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
        hint = ""
        if shards:
            hint = f"; {shards[0]} is there: copy {INDEX}, which says where each tensor is, from where it came"
        elif pickles:
            hint = (
                f"; {pickles[0]} is a pickle, which is never loaded: save the model with safetensors (transformers: "
                "from_pretrained(...).save_pretrained(...))"
            )
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}{hint}")
    places: dict[str, Place] = {}
    files: dict[str, list[str]] = {}
    metadata: dict[str, dict[str, str]] = {}
    for name in names:
        found, metadata[name] = read_header(folder / name)
        files[name] = list(found)
        places |= found
    for tensor, name in weight_map.items():
        if tensor not in places or places[tensor].file.name != name:
            raise UserError(f"{folder / name} does not hold {tensor}, as {INDEX} says", fix="download both again")
    return HfTensors(places=places, files=files, metadata=metadata)


def write_shard(
    path: Path,
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]],
    make: Callable[[str], torch.Tensor],
    *,
    metadata: dict[str, str],
) -> None:
    """Write one safetensors file, one tensor in memory at a time, and flush it to the disk.

    Args:
        tensors: name -> (dtype, shape).
        make: returns the tensor of a name.
    """
    # The library's order: wide types first, so that everything is aligned, then by name.
    order = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name in order:
        dtype, shape = tensors[name]
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)))
        stream.write(text)
        for name in order:
            tensor = make(name).contiguous()
            dtype, shape = tensors[name]
            assert tensor.dtype == dtype and tuple(tensor.shape) == shape, (name, tensor.dtype, tensor.shape)
            stream.write(memoryview(tensor.view(torch.uint8).reshape(-1).numpy()))
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as Hugging Face's files have it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def plan_shards(sizes: dict[str, int], *, limit: int) -> dict[str, list[str]]:
    """Divide tensors over files of at most `limit` bytes (a larger tensor has a file of its own), in order.

    Args:
        sizes: tensor -> bytes.
        limit: bytes.

    Returns:
        file name -> tensors; one file is called model.safetensors, several model-00001-of-0000N.safetensors.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{n:05d}-of-{len(groups):05d}.safetensors": group for n, group in enumerate(groups, 1)}
