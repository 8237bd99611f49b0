"""Read the pickles inside a Megatron checkpoint without running any code that they name.

torch.distributed.checkpoint writes its index (`.metadata`) as a pickle, and Megatron its arguments. A pickle may name any
function of any module to be called while it is read. Here only the classes of `INDEX_CLASSES` and `PLAIN_CLASSES` are
really made; everything else becomes an `Unknown`, which remembers nothing but its name and runs nothing.
"""

import importlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError

DTYPE_NAMES = frozenset(
    "float64 float32 float16 bfloat16 uint8 int8 int16 int32 int64 bool float8_e4m3fn float8_e5m2".split()
)
INDEX_CLASSES: dict[str, set[str]] = {
    "builtins": {"set", "frozenset"},
    "torch": {"Size", *DTYPE_NAMES},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "BytesStorageMetadata",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}
"""Module -> names that an index needs: descriptions of tensors and files, which do nothing when they are made."""
PLAIN_CLASSES: dict[str, set[str]] = {
    "argparse": {"Namespace"},
    "builtins": {"set", "frozenset"},
    "collections": {"OrderedDict"},
    "torch": set(DTYPE_NAMES),
}
"""Module -> names that Megatron's arguments need here."""

TRUSTED = frozenset(
    "argparse.Namespace collections.OrderedDict signal.Signals pathlib.PosixPath pathlib._local.PosixPath "
    "torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter "
    "numpy.dtype numpy.ndarray numpy._core.multiarray._reconstruct numpy.core.multiarray._reconstruct _codecs.encode "
    "numpy.dtypes.UInt32DType types.SimpleNamespace torch._C.Generator".split()
)
"""Names that Megatron's own checkpoints use beside `INDEX_CLASSES`; they make values and run nothing else."""
TRUSTED_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.planner",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed._shard.sharded_tensor.metadata",
    "megatron.core.enums",
    "megatron.core.transformer.enums",
    "megatron.core.rerun_state_machine",
    "megatron.core.optimizer.optimizer_config",
    "megatron.core.dist_checkpointing.strategies.torch",
)
"""Modules whose plain classes do so too."""


class Unknown:
    """Stands for an object of a class that is not made; takes any arguments and any state."""

    name = "?"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = args
        del kwargs

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, value: Any) -> None:
        """Take a list item."""

    def extend(self, values: Any) -> None:
        """Take list items."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Reader(pickle.Unpickler):
    """An unpickler that makes only the classes it is given and notes which others were named."""

    def __init__(self, stream: Any, classes: dict[str, set[str]]) -> None:
        super().__init__(stream)
        self.classes = classes
        self.unknown: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of the list, or a class of its own that does nothing."""
        if name in self.classes.get(module, ()):
            return getattr(importlib.import_module(module), name)
        full = f"{module}.{name}"
        self.unknown.add(full)
        return type("Unknown", (Unknown,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        """Return a stand-in for a tensor's storage, which lies in another file of the archive."""
        return Unknown(pid)


def read_index(path: Path) -> tuple[Any, set[str]]:
    """Return (the `Metadata` in `.metadata`, the names it holds that were not made).

    Raises:
        UserError: the file is torn or not an index.
    """
    from torch.distributed.checkpoint.metadata import Metadata

    try:
        with path.open("rb") as stream:
            reader = Reader(stream, INDEX_CLASSES)
            index = reader.load()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # a torn pickle can raise anything
        raise UserError(
            f"{path} is damaged: {type(error).__name__}: {error}", fix="use another checkpoint, or a copy of this one"
        ) from None
    if not isinstance(index, Metadata):
        raise UserError(f"{path} is not the index of a distributed checkpoint")
    return index, reader.unknown


def read_plain(archive: bytes, *, source: str) -> tuple[Any, set[str]]:
    """Return (the object that torch.save wrote, the names that were not made); tensors in it become `Unknown`.

    Raises:
        UserError: the bytes are not an archive of torch.save.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            name = next(n for n in files.namelist() if n.endswith("/data.pkl"))
            reader = Reader(io.BytesIO(files.read(name)), PLAIN_CLASSES)
            return reader.load(), reader.unknown
    except Exception as error:
        raise UserError(
            f"{source} is damaged: {type(error).__name__}: {error}",
            fix="use another checkpoint, or a copy of this one",
        ) from None


def untrusted(names: set[str]) -> list[str]:
    """Return the names that Megatron's own checkpoints never hold: reason not to let torch unpickle this one."""

    def known(name: str) -> bool:
        module, _, attribute = name.rpartition(".")
        if name in TRUSTED or (module in TRUSTED_MODULES and attribute[:1].isupper()):
            return True
        return module == "torch" and (attribute.endswith("Storage") or attribute in DTYPE_NAMES)

    return sorted(name for name in names if not known(name))
