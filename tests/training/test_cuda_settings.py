"""With `device=cuda`, Megatron can be configured: with Transformer Engine, without it, and not with a broken one."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu import speed
from benchmarks.gpu.catalogue import CHECKS
from meap_megatron.errors import UserError
from meap_megatron.launch import environment, runtime
from meap_megatron.launch.fitted import fitted, without_fused_loss
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.named_settings import of_command_line
from meap_megatron.launch.recipe import load
from meap_megatron.training import platform
from meap_megatron.training.patches import everywhere
from tests.support.fake_cuda import Engine
from tests.support.runs import ROOT

FLAGS = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --ffn-hidden-size 64 --swiglu --disable-bias-linear "
    "--normalization RMSNorm --position-embedding-type rope --untie-embeddings-and-output-weights --seq-length 32 "
    "--max-position-embeddings 32 --micro-batch-size 2 --global-batch-size 4 --train-iters 2 --lr 1e-3 "
    "--eval-iters 0 --eval-interval 9 --tokenizer-type NullTokenizer --vocab-size 128 --mock-data "
    "--hidden-dropout 0 --attention-dropout 0"
).split()
H100 = "NVIDIA H100 80GB HBM3"


def configurations(engine: str, *lines: list[str]) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_cuda", engine, *(word for line in lines for word in ("::", *line))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_without_transformer_engine_no_fused_kernel_of_it_is_asked_for_and_what_only_it_can_do_is_refused() -> None:
    rank = ["WORLD_SIZE=2", "RANK=0", *FLAGS, "--bf16"]
    built, fp8, context, packed, eager = configurations(
        "absent",
        # SLURM's --gpus-per-task=1: the fourth task of a node sees one GPU.
        ["LOCAL_RANK=3", *FLAGS, "--bf16"],
        [*rank, "--fp8-format=hybrid", "--fp8-recipe=tensorwise"],
        [*rank, "--context-parallel-size=2"],
        [*rank, "--dataloader-inter-document-masking", "--tensor-model-parallel-size=2", "--sequence-parallel"],
        [*FLAGS, "--bf16", "--disable-jit-fuser"],
    )
    assert built.pop("kept") and built.pop("replaced") == len(everywhere.ALWAYS), "nothing of CUDA is replaced"
    assert eager["compiled"] is False, "nothing of Megatron with the jit fuser disabled"
    assert built == {
        "transformer_impl": "local",
        "apply_rope_fusion": False,
        "gradient_accumulation_fusion": False,
        "persist_layer_norm": False,
        "masked_softmax_fusion": False,
        "create_attention_mask_in_dataloader": False,
        "local_rank": 0,
        "cross_entropy_loss_fusion": False,
        "fp8": None,
        "fp8_recipe": "delayed",
        "layers": "meap_megatron.training.torch_layers",
    }
    assert "FP8 (tensorwise) needs a GPU and Transformer Engine" in fp8["refused"]
    assert "context_parallel_size=2 needs Transformer Engine" in context["refused"]
    assert packed["layers"] == "meap_megatron.training.torch_layers"


def check_kernels(built: dict) -> None:
    assert built["transformer_impl"] == "transformer_engine"
    assert built["apply_rope_fusion"] and built["persist_layer_norm"] and built["masked_softmax_fusion"]
    assert built["gradient_accumulation_fusion"], "without Apex, through Transformer Engine's matrix product"
    assert not built["create_attention_mask_in_dataloader"]
    assert built["layers"] != "meap_megatron.training.torch_layers"


def test_with_transformer_engine_its_kernels_are_used_and_every_cell_of_gpu_check_can_be_configured() -> None:
    keywords = [check.run.keywords for name, check in CHECKS.items() if name.startswith("throughput")]
    cells = [(one["size"], one["precision"]) for one in keywords] + [("0.1b", "fp8-blockwise")]
    lines = [[*FLAGS, "--bf16"]]
    for size, precision in cells:
        mock = ["data_path=null", "mock_data=true", "tokenizer_type=NullTokenizer", "vocab_size=32000"]
        recipe = load(str(speed.recipe(size, "meap")), [*speed.overrides(size), f"precision={precision}", *mock])
        lines.append(fitted(recipe, "cuda")[0].command_line(read_flags()))
    plain, *built = configurations("present", *lines)
    check_kernels(plain)
    recipes = {"bf16": None, "fp8-tensorwise": "tensorwise", "fp8-delayed": "delayed", "fp8-blockwise": "blockwise"}
    for (size, precision), one in zip(cells, built, strict=True):
        assert "refused" not in one, (size, precision, one)
        assert one["fp8"] == {"bf16": None, "fp8-blockwise": "e4m3"}.get(precision, "hybrid")
        assert precision == "bf16" or one["fp8_recipe"] == recipes[precision]
        assert one["gradient_accumulation_fusion"] and one["cross_entropy_loss_fusion"], (size, precision)


def test_an_engine_that_cannot_be_loaded_is_refused_in_its_own_words() -> None:
    (broken,) = configurations("broken", [*FLAGS, "--bf16"])
    refused = broken["refused"]
    assert "installed but cannot be loaded (OSError: libcublasLt.so.13: cannot open shared object file)" in refused
    assert "transformer_impl=local" in refused


def test_an_engine_that_cannot_be_loaded_is_hidden_from_megatrons_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [Engine(broken=True), *sys.meta_path])
    monkeypatch.delitem(sys.modules, runtime.ENGINE, raising=False)
    try:
        platform.load_engine(optional=True)
        assert not runtime.is_importable(runtime.ENGINE)
        assert "--transformer-impl=local" in platform.flags_for("cuda", [])
    finally:
        sys.modules.pop(runtime.ENGINE)


@pytest.mark.parametrize(
    ("device", "flags", "kept"),
    [
        ("cuda", ["--bf16"], True),
        ("cuda", ["--fp16"], False),
        ("cuda", [], False),
        ("cuda", ["--bf16", "--deterministic-mode"], False),
        ("cpu", ["--bf16"], False),
    ],
)
def test_the_fused_loss_of_a_recipe_is_left_out_where_it_cannot_be_used(
    device: str, flags: list[str], kept: bool
) -> None:
    argv = [*flags, "--cross-entropy-loss-fusion", "--cross-entropy-fusion-impl=native"]
    left = without_fused_loss(argv, device=device)
    assert ("--cross-entropy-loss-fusion" in left) == kept
    assert left == [word for word in argv if kept or word != "--cross-entropy-loss-fusion"]


@pytest.mark.parametrize(("rank", "visible", "device"), [("0", 8, 0), ("5", 8, 5), ("5", 1, 0)])
def test_a_rank_runs_on_the_gpu_of_its_number_or_on_the_only_one_it_sees(rank: str, visible: int, device: int) -> None:
    assert platform.local_device({"LOCAL_RANK": rank}, visible=visible) == device


def test_more_ranks_than_gpus_are_refused_before_cuda_fails() -> None:
    with pytest.raises(UserError, match=r"local rank 2, but this process sees 2 GPUs \(CUDA_VISIBLE_DEVICES='0,1'\)"):
        platform.local_device({"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, visible=2)


@pytest.mark.parametrize(
    ("argv", "queues"),
    [
        ([], "8"),
        (["--tensor-model-parallel-size=1", "--pipeline-model-parallel-size=4"], "8"),
        (["--tensor-model-parallel-size", "2"], "1"),
        (["--context-parallel-size=2"], "1"),
        (["--tensor-model-parallel-size=2", "--use-megatron-fsdp"], "8"),
    ],
)
def test_only_tensor_and_context_parallel_run_with_one_hardware_queue(argv: list[str], queues: str) -> None:
    assert environment.defaults(of_command_line(argv), {})["CUDA_DEVICE_MAX_CONNECTIONS"] == queues


def test_what_the_user_has_set_is_kept() -> None:
    given = {"CUDA_DEVICE_MAX_CONNECTIONS": "32", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    assert environment.defaults(of_command_line(["--context-parallel-size=2"]), given) == {}


def test_settings_of_communication_are_for_several_ranks() -> None:
    alone, together = (
        environment.defaults(of_command_line([]), {}),
        environment.defaults(of_command_line([]), {"WORLD_SIZE": "8"}),
    )
    assert alone == {"CUDA_DEVICE_MAX_CONNECTIONS": "8", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert together == alone | {
        "TORCH_NCCL_HIGH_PRIORITY": "1",
        "NCCL_GRAPH_REGISTER": "0",
        "NCCL_NVLS_ENABLE": "0",
        "NVTE_FWD_LAYERNORM_SM_MARGIN": "20",
        "NVTE_BWD_LAYERNORM_SM_MARGIN": "20",
    }
    assert "NCCL_NVLS_ENABLE" not in environment.defaults(of_command_line(["--use-nccl-ub"]), {"WORLD_SIZE": "8"})


@pytest.mark.parametrize(
    ("flags", "trusted"),
    [
        ("--fp8-format=hybrid --fp8-recipe=delayed --save=a", True),
        ("--bf16 --save a --load a", True),  # it may have begun with delayed scaling
        ("--save=a --load=b", False),
        ("--load=b", False),
        ("--bf16", False),
    ],
)
def test_transformer_engine_may_load_the_scaling_history_of_the_runs_own_folder_only(
    flags: str, trusted: bool
) -> None:
    name = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"
    assert (environment.defaults(of_command_line(flags.split()), {}).get(name) == "1") == trusted
    assert name not in environment.defaults(of_command_line(flags.split()), {name: "0"})


STARTS = """
import os, sys, torch
def asked():
    print(who, os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"), os.environ.get("PYTORCH_ALLOC_CONF"), flush=True)
    os._exit(0)
torch.cuda.is_available = asked
from meap_megatron.launch import launch
from meap_megatron.training import pretrain
from meap_megatron.cli.main import main
recipe = ["train", "examples/recipes/tiny_cpu_ntp.yaml", "mock_data=true", "data_path=null", "vocab_size=128"]
starts = {
    "verb": lambda: main([*recipe, "tokenizer_type=NullTokenizer", "nproc=2", "tensor_model_parallel_size=2"]),
    "launcher": lambda: launch.launch(["--tensor-model-parallel-size=2"], nproc=0, device="auto", trainer=pretrain.__name__),
    "rank": lambda: pretrain.main(sys.argv[1:]),
}
for name, begin in starts.items():
    if os.fork() == 0:
        who = name
        begin()
    os.wait()
"""


def test_the_environment_is_complete_before_the_driver_is_asked_anything() -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_ALLOC_CONF")}
    done = subprocess.run(
        [sys.executable, "-c", STARTS, *FLAGS], capture_output=True, text=True, cwd=ROOT, env=clean, timeout=120
    )
    said = [line for line in done.stdout.splitlines() if "expandable" in line]
    queues = {"verb": 1, "launcher": 1, "rank": 8}
    assert said == [f"{who} {number} expandable_segments:True" for who, number in queues.items()], done.stderr


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        (H100, 989.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H20", 148.0),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA B300 SXM6 AC", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA L4", 121.0),
        (f"{H100} MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_own_kind(name: str, peak: float | None) -> None:
    from meap_megatron.training.peak import gpu_peak_tflops

    assert gpu_peak_tflops(name) == peak
