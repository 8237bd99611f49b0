"""What this process runs on, and what has to be in place before Megatron is imported.

Call `prepare(device)` first thing: it hides Transformer Engine on a CPU, sets the number of threads, installs the
redirects and imports Megatron, with or without triton. `flags_for` then gives the Megatron flags that the device needs.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from meap_megatron.errors import UserError
from meap_megatron.launch.megatron_import import import_megatron, no_compiler, quiet_imports, triton_stub
from meap_megatron.launch.runtime import ENGINE, cpus_available, free_port, is_importable

CPU_FLAGS: tuple[str, ...] = (
    "--transformer-impl=local",
    "--distributed-backend=gloo",
    "--use-cpu-initialization",
    "--no-gradient-accumulation-fusion",
    "--no-masked-softmax-fusion",
    "--no-bias-gelu-fusion",
    "--no-bias-swiglu-fusion",
    "--no-bias-dropout-fusion",
    "--no-rope-fusion",
    "--no-persist-layer-norm",
    "--disable-jit-fuser",
    "--no-create-attention-mask-in-dataloader",
)
"""Flags without which Megatron calls a CUDA kernel."""


def cudnn_of_torch() -> Path | None:
    """Return the folder of the cuDNN that torch's wheel was installed with; None: torch was built for the system's.

    Transformer Engine looks for one of the system first. Two cuDNN in one process end torch ("version incompatibility"), and
    without an error leave Transformer Engine with unfused attention (seen with cuDNN 9.14 beside torch's 9.19).
    """
    found = importlib.util.find_spec("torch")
    folder = Path(found.origin or "").parent.parent / "nvidia" / "cudnn" if found is not None else None
    return folder if folder is not None and any(folder.glob("lib/libcudnn.so*")) else None


def load_engine(*, optional: bool) -> None:
    """Import Transformer Engine if it is installed; hide one that cannot be loaded, if the run can do without.

    Megatron takes an ImportError for "not installed" and lets everything else (a library that is missing) end the import
    in its middle.

    Args:
        optional: the run was asked to use Megatron's own layers (transformer_impl=local).

    Raises:
        UserError: it is installed, cannot be loaded, and is not optional.
    """
    if not is_importable(ENGINE):
        return
    if (folder := cudnn_of_torch()) is not None:
        os.environ.setdefault("CUDNN_HOME", str(folder))
    try:
        importlib.import_module(f"{ENGINE}.pytorch")
    except Exception as error:
        if not optional:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"Transformer Engine is installed but cannot be loaded ({reason})",
                fix="install the version built for this torch "
                "and CUDA (meap doctor lists the versions), or set transformer_impl=local to train without it",
            ) from error
        for name in [name for name in sys.modules if name.partition(".")[0] == ENGINE]:
            del sys.modules[name]
        sys.modules[ENGINE] = None  # type: ignore[assignment]


def local_device(environ: Mapping[str, str], *, visible: int) -> int:
    """Return the number of this rank's GPU among those that the process sees.

    SLURM's --gpus-per-task=1 shows every task one GPU, which is then number 0 for each of them.

    Args:
        environ: with LOCAL_RANK, the rank among those of this machine.
        visible: number of GPUs that the process sees.

    Raises:
        UserError: there are several, and the local rank is not the number of one of them.
    """
    rank = int(environ.get("LOCAL_RANK", "0"))
    if rank < visible:
        return rank
    if visible == 1:
        return 0
    raise UserError(
        f"local rank {rank}, but this process sees {visible} GPUs (CUDA_VISIBLE_DEVICES="
        f"{environ.get('CUDA_VISIBLE_DEVICES', '')!r})",
        fix="start at most one process per GPU, or show each process one GPU (srun --gpus-per-task=1)",
    )


def prepare(device: str, *, engine_optional: bool = False) -> None:
    """Make Megatron importable and runnable on `device` ("cpu" or "cuda"); harmless when called twice.

    Raises:
        UserError: see `load_engine`.
    """
    quiet_imports()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    if device == "cpu":
        if ENGINE not in sys.modules:
            # With Transformer Engine installed, Megatron's local layers pick its CUDA operations.
            sys.modules[ENGINE] = None  # type: ignore[assignment]
        local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = int(os.environ.get("MEAP_THREADS", "0")) or max(1, cpus_available() // local_ranks)
        import torch

        torch.set_num_threads(threads)
    else:
        load_engine(optional=engine_optional)
    from meap_megatron.training.patches import redirect

    with triton_stub(), no_compiler(device):
        redirect.install(device=device, engine=device == "cuda" and is_importable(ENGINE))
        import_megatron()


def obey_jit_fuser(*, disabled: bool) -> None:
    """Run Megatron's compiled functions uncompiled with --disable-jit-fuser, on a GPU.

    Megatron's own switch changes the decorator, which its functions got when they were imported, and then warms them up.
    """
    if disabled:
        import torch

        torch.compiler.set_stance("force_eager")


def flags_for(device: str, given: list[str]) -> list[str]:
    """Return the Megatron flags that `device` and the installed parts need and that `given` does not already hold.

    Args:
        device: "cpu" or "cuda".
        given: the command line, in which a flag is written as `--name value` or `--name=value`.
    """
    present = {argument.split("=", 1)[0] for argument in given if argument.startswith("--")}
    if device == "cpu":
        wanted = list(CPU_FLAGS)
    else:
        wanted = []
        engine = is_importable(ENGINE)
        if not engine:
            wanted += ["--transformer-impl=local", "--no-persist-layer-norm", "--no-rope-fusion"]
            if not is_importable("scaled_masked_softmax_cuda"):
                wanted.append("--no-masked-softmax-fusion")
        if "--use-torch-fsdp2" in present or not is_importable("fused_weight_gradient_mlp_cuda"):
            # Apex's, or our own with Transformer Engine (everywhere.MODULES); FSDP2 has no buffer to add to.
            wanted.append("--no-gradient-accumulation-fusion")
        if "--reset-attention-mask" not in present:
            # A dense mask of sequence x sequence, copied to every rank, that causal attention never reads.
            wanted.append("--no-create-attention-mask-in-dataloader")
    return [flag for flag in wanted if flag.split("=", 1)[0] not in present]
