"""Import Megatron where parts that it imports unconditionally are missing: what takes their place meanwhile."""

import contextlib
import importlib
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

from meap_megatron.launch.runtime import is_importable
from meap_megatron.terminal import is_verbose


class _Stub(types.ModuleType):
    """A module whose every attribute is a decorator that changes nothing: enough to import Triton kernels unrun."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyKernel()


class _AnyKernel:
    """Stands for triton.jit, triton.Config, tl.constexpr and so on; calling it on a function returns the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]
        return self

    def __getattr__(self, name: str) -> Any:
        return self

    def __getitem__(self, item: Any) -> Any:
        return self


@contextlib.contextmanager
def triton_stub() -> Iterator[bool]:
    """Let Megatron be imported without triton, which CPU builds of torch do not bring; yield whether it is missing.

    megatron-core 0.19 imports triton unconditionally, also where no kernel of it ever runs. Torch asks for triton too and
    must get the true answer, so its compiler is imported before the stub is there, and the stub goes when Megatron is in.
    """
    if is_importable("triton"):
        yield False
        return
    for name in ("torch._dynamo", "torch._inductor.compile_fx"):
        importlib.import_module(name)
    stubs = {name: _Stub(name) for name in ("triton", "triton.language")}
    for name, module in stubs.items():
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        module.__version__ = "0.0.0"  # type: ignore[attr-defined]
    stubs["triton"].language = stubs["triton.language"]  # type: ignore[attr-defined]
    sys.modules.update(stubs)
    try:
        yield True
    finally:
        for name in stubs:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def no_compiler(device: str) -> Iterator[None]:
    """On a CPU, let `torch.compile` hand functions back as they are while Megatron is imported.

    Megatron decorates a dozen functions with it, and the first one imports torch's compiler: 2 of the 7 s of processor time
    that the import takes. On a CPU they are not used compiled: CPU_FLAGS has --disable-jit-fuser.
    """
    if device != "cpu":
        yield
        return
    import torch

    def same(function: Any = None, **options: Any) -> Any:
        return (lambda decorated: decorated) if function is None else function

    compile_, torch.compile = torch.compile, same
    try:
        yield
    finally:
        torch.compile = compile_


def import_megatron() -> None:
    """Import Megatron's trainer and all that it pulls in."""
    quiet_imports()
    with triton_stub():
        importlib.import_module("megatron.training.training")
        # Pulls in transformers, also for the placeholder tokenizer: once here, not in every forked rank.
        importlib.import_module("megatron.core.tokenizers.text")


def quiet_imports() -> None:
    """Silence what Megatron and torch say on import about optional parts that are missing, unless --verbose asks for it."""
    if is_verbose():
        return
    warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\..*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # "No CUDA runtime is found", "triton not found": true, and of no consequence here.
    for name in ("torch.utils.cpp_extension", "torch.utils.flop_counter"):
        logging.getLogger(name).setLevel(logging.ERROR)
