"""A user does not notice what a machine lacks: triton, a Makefile, Apex, a GPU; nor an idle Transformer Engine."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import megatron_import, runtime
from meap_megatron.training import platform
from meap_megatron.training.patches import everywhere
from meap_megatron.training.patches.assignments import ASSIGNMENTS
from meap_megatron.training.patches.entries import missing
from meap_megatron.training.patches.on_cpu import CPU
from tests.support.runs import ROOT

FLAGS = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --ffn-hidden-size 64 --swiglu --disable-bias-linear "
    "--normalization RMSNorm --position-embedding-type rope --untie-embeddings-and-output-weights --seq-length 32 "
    "--max-position-embeddings 32 --micro-batch-size 2 --global-batch-size 4 --train-iters 2 --lr 1e-3 "
    "--eval-iters 0 --eval-interval 9 --tokenizer-type NullTokenizer --vocab-size 128 --mock-data "
    "--hidden-dropout 0 --attention-dropout 0 --meap-device cpu"
).split()

RUN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
if __name__ == "__main__":
    import torch
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
    assert torch.accelerator.is_available()  # what torch's loader asks before it pins memory
    from meap_megatron.training import platform
    from meap_megatron.training.pretrain import before_forks, main
    platform.prepare("cpu")
    print("sees", torch.cuda.is_available(), torch.accelerator.is_available())
    before_forks()
    there = set(sys.modules)
    status = main(sys.argv[1:])
    heavy = ("torch._dynamo", "megatron.core.datasets.gpt_dataset", "meap_megatron.datasets.provider")
    again = [name for name in set(sys.modules) - there if name.startswith(heavy)]
    print("imports", "triton" in sys.modules, again)
    sys.exit(status)
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what a run says in a process of its own, beside a GPU and an engine; first word of a line -> the others."""
    root = tmp_path_factory.mktemp("first")
    script, package = root / "run.py", root / "site" / "transformer_engine"
    script.write_text(RUN)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('Transformer Engine was imported')\n")
    environ = {"PYTHONPATH": f"{package.parent}:{ROOT}", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *FLAGS, "--meap-metrics", str(root / "metrics.jsonl")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | environ,
    )
    assert done.returncode == 0, done.stderr
    assert '"step": 2' in (root / "metrics.jsonl").read_text()
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_a_run_on_a_cpu_needs_neither_triton_nor_an_engine_and_imports_once(first: dict[str, str]) -> None:
    assert first["imports"] == "False []", "nothing of torch's compiler or of the datasets comes later"


def test_a_gpu_beside_a_run_on_a_cpu_is_not_seen_by_torch_or_megatron(first: dict[str, str]) -> None:
    assert first["sees"] == "False False"


@pytest.mark.parametrize("bundled", [True, False])
def test_transformer_engine_gets_the_cudnn_that_torch_was_installed_with(
    bundled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    folder = tmp_path / "nvidia" / "cudnn"
    if bundled:
        (folder / "lib").mkdir(parents=True)
        (folder / "lib" / "libcudnn.so.9").touch()
    monkeypatch.setenv("CUDNN_HOME", "")  # put back at the end
    monkeypatch.delenv("CUDNN_HOME")
    monkeypatch.setattr(
        platform.importlib.util, "find_spec", lambda name: Namespace(origin=tmp_path / name / "__init__.py")
    )
    seen = []
    monkeypatch.setattr(
        platform.importlib, "import_module", lambda name: seen.append((name, os.environ.get("CUDNN_HOME")))
    )
    platform.load_engine(optional=False)
    assert seen == [("transformer_engine.pytorch", str(folder) if bundled else None)]


def test_the_helpers_are_used_without_make_and_their_absence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("make was called")

    helpers = everywhere.skip_make(fail)
    helpers()
    monkeypatch.setitem(sys.modules, "megatron.core.datasets.helpers_cpp", None)
    with pytest.raises(RunError, match="use Python 3.12"):
        helpers()


def test_the_source_of_a_configuration_is_read_once_for_all_parsers() -> None:
    asked: list[type] = []
    read = everywhere.read_once(lambda parser, kind: asked.append(kind) or {"lr": f"rate of {kind.__name__}"})
    read("first parser", int)["lr"] = "changed"
    assert read("second parser", int) == {"lr": "rate of int"} and read("second parser", str) == {"lr": "rate of str"}
    assert asked == [int, str]


def test_without_apex_and_transformer_engine_a_gpu_gets_the_flags_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "is_importable", lambda name: False)
    assert {"--no-gradient-accumulation-fusion", "--transformer-impl=local"} <= set(platform.flags_for("cuda", []))
    monkeypatch.setattr(platform, "is_importable", lambda name: name == "transformer_engine")
    assert "--no-gradient-accumulation-fusion" in platform.flags_for("cuda", [])
    assert "--transformer-impl=local" not in platform.flags_for("cuda", [])
    monkeypatch.setattr(platform, "is_importable", lambda name: True)
    assert platform.flags_for("cuda", []) == ["--no-create-attention-mask-in-dataloader"]
    assert platform.flags_for("cuda", ["--reset-attention-mask"]) == []


def test_a_flag_that_was_given_is_not_given_twice() -> None:
    assert "--transformer-impl=local" not in platform.flags_for("cpu", ["--transformer-impl", "local"])
    assert "--use-cpu-initialization" in platform.flags_for("cpu", [])


def test_every_name_that_is_replaced_still_exists_upstream() -> None:
    megatron_import.import_megatron()
    assert missing(one.target for one in (*CPU, *everywhere.ALWAYS, *ASSIGNMENTS)) == []


def test_a_name_that_upstream_dropped_is_reported() -> None:
    assert missing(["torch.cuda:no_such_name", "torch.cuda:Stream"]) == ["torch.cuda:no_such_name"]


@pytest.mark.parametrize(("device", "message"), [("cuda", "no GPU"), ("tpu", "not one of auto, cpu, cuda")])
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        runtime.resolve_device(device)
