"""On a CPU the trainer is imported without torch's code generator, and torch.compile is itself afterwards."""

import os
import subprocess
import sys

from tests.support.runs import ROOT

SCRIPT = """
import sys, torch
from meap_megatron.training import platform
compile_ = torch.compile
platform.prepare("cpu")
assert torch.compile is compile_
from megatron.core.fusions.fused_bias_swiglu import swiglu
value = swiglu(torch.ones(2, 4))
assert value.shape == (2, 2)
print("torch._inductor.compile_fx" in sys.modules)
"""


def test_megatron_is_imported_for_a_cpu_without_torchs_code_generator() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
