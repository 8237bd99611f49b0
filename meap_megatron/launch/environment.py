"""Variables that CUDA, NCCL, torch and Transformer Engine read once, when they start: set before any of them does.

The values are those of NVIDIA's own recipes for Megatron. What the user has set is never replaced. The driver reads
`CUDA_DEVICE_MAX_CONNECTIONS` when it starts, which already `torch.cuda.is_available()` makes it do.
"""

from collections.abc import Mapping

from meap_megatron.launch.named_settings import Settings

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The name that torch 2.9 and newer reads, and the older one, about which they warn."""
NO_CONNECTIONS_OF_ONE = ("use_torch_fsdp2", "use_megatron_fsdp", "overlap_moe_expert_parallel_comm")
"""Settings with which Megatron refuses, or warns about, a single hardware queue."""
WORLD = {
    "TORCH_NCCL_HIGH_PRIORITY": "1",
    "NCCL_GRAPH_REGISTER": "0",
    "NVTE_FWD_LAYERNORM_SM_MARGIN": "20",
    "NVTE_BWD_LAYERNORM_SM_MARGIN": "20",
}
"""With several GPUs: communication goes first, and the norms leave it 20 of the multiprocessors."""
SCALING_HISTORY = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"
"""Transformer Engine saves the history of delayed scaling as a pickle, and newer versions load no pickle without this."""


def defaults(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a run should start with and that `environ` does not hold.

    Args:
        settings: of a rank or of the launcher.
        environ: of this process; WORLD_SIZE above 1 says that it is one of several ranks.
    """
    wanted = {"CUDA_DEVICE_MAX_CONNECTIONS": connections(settings)}
    if not any(name in environ for name in ALLOCATOR):
        # Segments that grow leave fewer gaps than blocks of fixed size.
        wanted[ALLOCATOR[0]] = "expandable_segments:True"
    if environ.get("WORLD_SIZE", "1") != "1":
        wanted |= WORLD
        if not settings.on("use_nccl_ub"):
            # Its buffers take memory from the model, and its sums have an order of their own.
            wanted["NCCL_NVLS_ENABLE"] = "0"
    # Checkpoints of the run's own folder; it may have had another precision when it saved them.
    if settings.has("save") and settings.get("load") in (None, settings.get("save")):
        wanted[SCALING_HISTORY] = "1"
    return {name: value for name, value in wanted.items() if name not in environ}


def connections(settings: Settings) -> str:
    """Return how many hardware queues a GPU gets.

    One with tensor or context parallel: Megatron relies on kernels running in the order of their launch, so that
    communication starts before the matrix product that hides it. Otherwise CUDA's own 8: with one, the communication of
    data parallel waits for computation that it has nothing to do with.
    """
    ordered = any(settings.whole(f"{kind}_parallel_size", 1) != 1 for kind in ("tensor_model", "context"))
    return "1" if ordered and not settings.has(*NO_CONNECTIONS_OF_ONE) else "8"
