"""CUDA and NCCL: nothing is needed without a GPU, and everything with one."""

from meap_megatron.doctor import gpus

H100 = {"name": "NVIDIA H100", "memory": 80 * 2**30, "capability": "9.0"}
TORCH = {"facts": {"version": "2.15.0", "cuda": "13.2", "gpu_build": True}}


def found(answers, seen):
    return {f.name: f for f in gpus.findings(answers, seen=seen)}


def test_without_a_gpu_nothing_fails() -> None:
    there = found({"torch": TORCH, "cuda": {"facts": {"gpus": []}}, "nccl": {"facts": {"version": ""}}}, 0)
    assert {f.state for f in there.values()} == {"missing"} and not any(f.fails for f in there.values())


def test_gpus_that_torch_reaches_are_counted() -> None:
    there = found(
        {"torch": TORCH, "cuda": {"facts": {"gpus": [H100] * 8}}, "nccl": {"facts": {"version": "2.30.7"}}}, 8
    )
    assert there["CUDA"].detail == "8 x NVIDIA H100, 80 GiB" and there["NCCL"].version == "2.30.7"
    assert {f.state for f in there.values()} == {"ok"}


def test_a_gpu_that_torch_does_not_reach_fails_and_says_which_cuda_torch_wants() -> None:
    there = found({"torch": TORCH, "cuda": {"facts": {"gpus": []}}, "nccl": {"facts": {"version": "2.30.7"}}}, 8)
    assert there["CUDA"].fails and "built for CUDA 13.2" in there["CUDA"].detail and there["CUDA"].fix


def test_a_driver_that_hangs_fails() -> None:
    there = found({"torch": TORCH, "cuda": {"error": "the import did not end within 30 s"}}, 1)
    assert there["CUDA"].fails and "30 s" in there["CUDA"].detail


def test_without_nccl_a_gpu_machine_fails() -> None:
    there = found({"torch": TORCH, "cuda": {"facts": {"gpus": [H100]}}, "nccl": {"facts": {"version": ""}}}, 1)
    assert there["NCCL"].fails


def test_device_files_are_counted_and_control_files_are_not(tmp_path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia0x"):
        (tmp_path / name).touch()
    assert gpus.devices(tmp_path) == 3
