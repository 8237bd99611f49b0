"""What a GPU and its network can do, from data sheets, and the few fractions of it that training reaches.

Three fractions are for all GPUs, two are for each kind. Where they come from:

- `MEMORY_FRACTION`, `HIDDEN_BY_OVERLAP` and the A100's `matrix_fraction`: chosen so that the ten measurements of
  Narayanan et al. 2021, table 1, and the six of Megatron-LM's README that give their whole layout come out best
  together.
- the H100's `matrix_fraction`: from those six; its `fp8_fraction`: from the twelve FP8 rows of NeMo 24.07's
  performance summary.
- H200 and B200 have the H100's fractions: nothing was fitted to them, and no BF16 measurement of them was at hand.
- `attention_fraction`: of the papers of FlashAttention-2 (arXiv:2307.08691, A100) and -3 (arXiv:2407.08608, H100),
  for 128 channels and 4,096 to 8,192 tokens, rounded down.

docs/planning.md has all measurements beside the estimates, those that were not used here too.
"""

from dataclasses import dataclass

from meap_megatron.errors import UserError

GB = 1e9
NODE = 8
"""GPUs of a node, which NVLink connects."""
MEMORY_FRACTION = 0.7
"""Of the bandwidth to the GPU's memory, in what lies between matrix products."""
LINK_FRACTION = 0.75
"""Of NVLink's and the network's rate, in large collectives."""
HIDDEN_BY_OVERLAP = 0.7
"""Of communication that Megatron splits up to hide it (tensor parallel with overlap, interleaved pipeline)."""
COLLECTIVE_LATENCY = 20e-6
"""Seconds before a collective or a message moves data."""
HOST_SECONDS = 3e-4
"""Least time of one pass through one layer: Python starts its kernels. An assumption; only tiny layers feel it."""
STEP_SECONDS = 0.01
"""Of a step besides its passes and its optimizer: gradient norm, logging. An assumption."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU in nodes of eight, as in NVIDIA's DGX systems; rates are per GPU, bytes/s in one direction."""

    name: str
    memory: float
    """Bytes, as sold. The driver shows about 7 % more, which is left to the allocator's gaps."""
    bf16: float
    """Dense FLOP/s."""
    fp8: float
    """Dense FLOP/s; 0 without such units."""
    bandwidth: float
    """To its own memory."""
    nvlink: float
    network: float
    """To other nodes: one InfiniBand card for each GPU."""
    matrix_fraction: float
    """Of `bf16` that the matrix products of a layer reach."""
    fp8_fraction: float
    """Of `fp8` that they reach."""
    attention_fraction: float
    """Of `bf16` that fused causal attention reaches."""

    def matrix_rate(self, *, fp8: bool) -> float:
        """Return the FLOP/s of a layer's matrix products."""
        return self.fp8 * self.fp8_fraction if fp8 else self.bf16 * self.matrix_fraction

    @property
    def stream(self) -> float:
        """Bytes/s of elementwise work."""
        return self.bandwidth * MEMORY_FRACTION


A100 = Gpu(
    name="A100 SXM 80 GB",
    memory=80 * GB,
    bf16=312e12,
    fp8=0.0,
    bandwidth=2039 * GB,
    nvlink=300 * GB,
    network=25 * GB,
    matrix_fraction=0.72,
    fp8_fraction=0.0,
    attention_fraction=0.50,
)
H100 = Gpu(
    name="H100 SXM 80 GB",
    memory=80 * GB,
    bf16=989.5e12,
    fp8=1979e12,
    bandwidth=3350 * GB,
    nvlink=450 * GB,
    network=50 * GB,
    matrix_fraction=0.54,
    fp8_fraction=0.53,
    attention_fraction=0.40,
)
H200 = Gpu(**(vars(H100) | {"name": "H200 SXM 141 GB", "memory": 141 * GB, "bandwidth": 4800 * GB}))
B200 = Gpu(
    **(
        vars(H100)
        | {"name": "B200 180 GB", "memory": 180 * GB, "bf16": 2250e12, "fp8": 4500e12}
        | {"bandwidth": 8000 * GB, "nvlink": 900 * GB}
    )
)
GPUS: dict[str, Gpu] = {"a100": A100, "h100": H100, "h200": H200, "b200": B200}
"""By the name that `--gpu` takes. Rates: NVIDIA's data sheets; network: HDR (A100) and NDR InfiniBand."""


def find(name: str) -> Gpu:
    """Return the GPU of a name.

    Raises:
        UserError: there are no figures for it.
    """
    if name.lower() not in GPUS:
        raise UserError(f"--gpu {name}: there are figures for {', '.join(GPUS)} only")
    return GPUS[name.lower()]
