"""The peak FLOP/s against which MFU is stated."""

import time

# Dense BF16 tensor-core peak in TFLOP/s from NVIDIA's data sheets, by a part of the name CUDA reports.
BF16_PEAK_TFLOPS: dict[str, float] = {
    "B200": 2250.0,
    "H200": 989.5,
    "H100 PCIe": 756.0,
    "H100": 989.5,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "V100": 125.0,
}


def gpu_peak_tflops(name: str) -> float | None:
    """Return the dense BF16 peak of a GPU by its CUDA name in TFLOP/s, None if it is not in the table."""
    return next((peak for part, peak in BF16_PEAK_TFLOPS.items() if part in name), None)


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
