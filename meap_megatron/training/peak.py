"""The peak FLOP/s against which MFU is stated."""

import re
import time

# Dense BF16 tensor-core peak in TFLOP/s from NVIDIA's data sheets, by words of the name that CUDA reports: the longer name
# of a kind comes before the shorter one.
BF16_PEAK_TFLOPS: dict[str, float] = {
    "GB300": 2500.0,
    "B300": 2250.0,
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.5,
    "H200 NVL": 835.5,
    "H200": 989.5,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H100": 989.5,
    "H800": 989.5,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "V100": 125.0,
}


def gpu_peak_tflops(name: str) -> float | None:
    """Return the dense BF16 peak of a GPU by its CUDA name in TFLOP/s.

    None if it is not in the table, or if it is a MIG slice, which has a part of the peak.
    """
    if re.search(r"\bMIG\b", name):
        return None
    return next((peak for words, peak in BF16_PEAK_TFLOPS.items() if re.search(rf"\b{words}\b", name)), None)


def measured_cpu_tflops(*, size: int = 768, repeats: int = 5) -> float:
    """Return the fp32 rate of a square matrix product on this process's threads in TFLOP/s: the best of `repeats`."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best / 1e12
