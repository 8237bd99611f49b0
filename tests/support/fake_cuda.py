"""Build Megatron's configuration for `device=cuda` on a machine without a GPU, and print what came out as JSON.

    python -m tests.support.fake_cuda absent|present|broken [NAME=VALUE]... FLAG... [:: ...]

Every command line (`::` is between two) gets a line of its own; its first words may be variables of the environment.

The questions to the driver are answered as an H100 would. Transformer Engine is absent, or present as a package of empty
classes that Megatron's import accepts (nothing of it computes), or broken: a library of it is missing.
"""

import importlib
import importlib.abc
import importlib.machinery
import itertools
import json
import os
import sys
import types
from typing import Any

SHOWN = (
    "transformer_impl apply_rope_fusion gradient_accumulation_fusion persist_layer_norm masked_softmax_fusion "
    "create_attention_mask_in_dataloader local_rank cross_entropy_loss_fusion fp8 fp8_recipe"
).split()


TORCHS: list[Any] = []
"""Names of torch that a run on a CPU replaces, as they were at first."""


class Package(types.ModuleType):
    """A module that has every name: a class for a capital letter, a module that can be called for any other."""

    __path__: list[str] = []
    __version__ = "2.20.2"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {}) if name[0].isupper() else importlib.import_module(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        return None


class Engine(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `transformer_engine` and everything in it."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        is_engine = name.partition(".")[0] == "transformer_engine"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_engine else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Package(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if self.broken and module.__name__ == "transformer_engine.pytorch":
            raise OSError("libcublasLt.so.13: cannot open shared object file")


def answer_for_cuda() -> None:
    """Let torch describe one H100."""
    import torch

    properties = types.SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, name="H100")
    cuda: Any = torch.cuda
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.get_device_properties = lambda *args: properties
    cuda.get_device_capability = lambda *args: (9, 0)


def main(engine: str, argv: list[str]) -> None:
    """Print the configurations with which runs on a GPU would build their models, or why they are refused."""
    if engine != "absent":
        sys.meta_path.insert(0, Engine(broken=engine == "broken"))
    answer_for_cuda()
    import torch

    TORCHS.extend((torch.cuda.current_device, torch.tensor, torch.cuda.Stream))
    environ = dict(os.environ)
    for is_line, line in itertools.groupby(argv, "::".__ne__):
        if is_line:
            words = list(line)
            flags = [*itertools.dropwhile(lambda word: not word.startswith("--"), words)]
            os.environ.clear()
            os.environ.update(environ | dict(word.split("=", 1) for word in words[: len(words) - len(flags)]))
            show(flags)


def show(argv: list[str]) -> None:
    """Print one configuration."""
    from meap_megatron.errors import UserError
    from meap_megatron.training import pretrain
    from meap_megatron.training.patches import redirect

    if "megatron.training.global_vars" in sys.modules:
        sys.modules["megatron.training.global_vars"].unset_global_variables()
    try:
        _, args, _, container = pretrain.configure([*argv, "--meap-device=cuda"])
    except UserError as error:
        print(json.dumps({"refused": str(error)}))
        return
    model = container.model.transformer
    shown = {name: getattr(model, name, getattr(args, name, None)) for name in SHOWN}
    layers = container.model.transformer_layer_spec
    import torch

    shown["kept"] = [torch.cuda.current_device, torch.tensor, torch.cuda.Stream] == TORCHS
    shown["replaced"] = len(redirect.installed())
    if args.disable_jit_fuser:
        shown["compiled"] = compiles()
    print(json.dumps(shown | {"layers": getattr(layers, "__module__", None)}))


def compiles() -> bool:
    """Tell whether a function that Megatron compiles is compiled when it is called."""
    import torch
    from megatron.core.fusions.fused_bias_swiglu import swiglu
    from torch._dynamo.utils import counters

    swiglu(torch.ones(2, 4))
    return bool(counters["frames"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
