"""Stand-ins for the CUDA objects that Megatron's trainer touches on a machine without a GPU.

They do what "one device, no concurrency" means: a stream or event that is always finished, memory counters that say
zero, and the CPU generator where a CUDA generator is asked for. `redirect` puts them in place.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

CPU = torch.device("cpu")


def giving(value: Any) -> Callable[..., Any]:
    """Return a function that accepts anything and returns `value`."""
    return lambda *args, **kwargs: value


class Finished:
    """A CUDA stream or event on which all work is already done."""

    synchronize = wait = record = wait_stream = wait_event = staticmethod(giving(None))
    query = staticmethod(giving(True))
    elapsed_time = staticmethod(giving(0.0))
    """In ms: host timers measure CPU work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __enter__(self) -> "Finished":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def record_event(self, event: object = None) -> "FinishedEvent":
        """Return an event that is already reached."""
        return FinishedEvent()


class FinishedStream(Finished):
    """A stream; a class of its own, because torch tells streams and events apart by class."""


class FinishedEvent(Finished):
    """An event."""


class CpuGenerators:
    """`torch.cuda.default_generators`, each entry being the CPU generator."""

    def __getitem__(self, index: object) -> torch.Generator:
        return torch.default_generator

    def __len__(self) -> int:
        return 1


def cpu_device(*args: Any, **kwargs: Any) -> torch.device:
    """Return the device on which tensors are made."""
    return CPU


def get_rng_state(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the state of the CPU generator: uint8[n]."""
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    """Set the state of the CPU generator from uint8[n]."""
    torch.set_rng_state(state)


def manual_seed(seed: int) -> None:
    """Seed the CPU generator."""
    torch.manual_seed(seed)


def call_now(function: Any, **kwargs: Any) -> None:
    """Run what torch.cuda would run once CUDA is initialised."""
    function()


def unchanged[T](target: T, *args: Any, **kwargs: Any) -> T:
    """`Tensor.cuda()` and `Module.cuda()`: the tensor, or the module, is where it has to be."""
    return target


NOTHING, ZERO = giving(None), giving(0)
STREAM = giving(FinishedStream())
MEMORY_STATS = giving(defaultdict(int))
PROPERTIES = giving(SimpleNamespace(major=8, minor=0, total_memory=0, name="cpu", multi_processor_count=1))
"""The fields that Megatron reads of a GPU, and a compute capability that switches no special case on."""
