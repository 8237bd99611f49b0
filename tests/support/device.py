"""A GPU that only counts: tensors that are "on it" compute on the CPU, and whatever would make the host wait is noted.

A CUDA kernel is started and not waited for, unless the host asks for a value, copies from memory that is not pinned, or
makes a tensor on the GPU out of numbers of the host.
"""

from typing import Any

import pytest
import torch

WAITING = (
    "item tolist numpy cpu nonzero masked_select unique unique_consecutive equal allclose is_nonzero "
    "__int__ __float__ __bool__ __index__"
).split()


class OnDevice(torch.Tensor):
    """A tensor in the memory of the GPU; results of operations on it are there too."""

    waits: list[str] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        by_mask = name == "__getitem__" and getattr(args[1], "dtype", None) == torch.bool
        if name in WAITING or by_mask or (name == "to" and "cpu" in map(str, args)):
            cls.waits.append(name)
        return super().__torch_function__(function, types, args, kwargs or {})


class Pinned:
    """Which storages of the host's memory are pinned."""

    def __init__(self) -> None:
        self.storages: set[int] = set()
        self.kept: list[torch.Tensor] = []

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor in pinned memory: a copy, unless it is there already."""
        if isinstance(tensor, OnDevice):
            raise RuntimeError("only host memory can be pinned")
        if not self.holds(tensor):
            tensor = tensor.clone()
            self.storages.add(tensor.untyped_storage().data_ptr())
            self.kept.append(tensor)
        return tensor

    def holds(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor, or the one it is a view of, is pinned."""
        return tensor.untyped_storage().data_ptr() in self.storages


def counting_device(patch: pytest.MonkeyPatch) -> tuple[Pinned, list[str]]:
    """Let `.cuda()` and factories with device="cuda" make tensors of `OnDevice`; return what is pinned, and the waits."""
    pinned = Pinned()
    waits: list[str] = []
    patch.setattr(OnDevice, "waits", waits)

    def cuda(tensor: torch.Tensor, device: Any = None, non_blocking: bool = False) -> torch.Tensor:
        if isinstance(tensor, OnDevice):
            return tensor
        if not (non_blocking and pinned.holds(tensor)):
            waits.append("copy of memory that is not pinned" if non_blocking else "blocking copy")
        return tensor.clone().as_subclass(OnDevice)

    def factory(name: str) -> None:
        plain = getattr(torch, name)

        def make(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
            if "cuda" not in str(device):
                return plain(*args, **kwargs)
            if name in ("tensor", "as_tensor"):
                waits.append(f"torch.{name} on the device")
            return plain(*args, **kwargs).as_subclass(OnDevice)

        patch.setattr(torch, name, make)

    patch.setattr(torch.Tensor, "cuda", cuda)
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.pin(tensor))
    patch.setattr(torch.Tensor, "is_pinned", lambda tensor: pinned.holds(tensor))
    patch.setattr(OnDevice, "device", torch.device("cuda:0"), raising=False)
    for name in ("tensor", "as_tensor", "full", "zeros", "ones", "empty", "arange"):
        factory(name)
    return pinned, waits
