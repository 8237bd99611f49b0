"""The recipes of the paper's sizes, built on the meta device by Megatron itself, have the protocol's parameter counts."""

import json
import os
import subprocess
import sys

import pytest

from meap_megatron.training.model import official_init_stds
from tests.support.runs import RECIPES, ROOT

COUNT = """
import json, sys, torch
from meap_megatron.training import platform, pretrain
platform.set_thread_policy(); platform.prepare("cpu")
from meap_megatron.training.recipe import load
from meap_megatron.training.flags import read_flags
from meap_megatron.training.model import model_config
counts = {}
for path in sys.argv[1:]:
    words = load(path, ["data_path=null", "mock_data=true", "tokenizer_type=NullTokenizer", "vocab_size=32001",
        "padded_vocab_size=32064", "bf16=false", "use_distributed_optimizer=false", "overlap_grad_reduce=false",
        "overlap_param_gather=false", "global_batch_size=16"]).command_line(read_flags())
    words += platform.flags_for("cpu", words)
    from megatron.training import global_vars
    global_vars.unset_global_variables()
    args = pretrain.parse(words)
    config = model_config(args, device="cpu")
    import torch.distributed as dist
    from megatron.core import parallel_state
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=0, world_size=1)
        parallel_state.initialize_model_parallel()
        from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
        model_parallel_cuda_manual_seed(1)
    from megatron.core.models.gpt import GPTModel
    from meap_megatron.training.cpu_layers import block_spec
    config.transformer.init_model_with_meta_device = True
    config.transformer.use_cpu_initialization = False
    config.transformer.perform_initialization = False
    with torch.device("meta"):
        model = GPTModel(config.transformer, block_spec(config), vocab_size=32064, max_sequence_length=4096,
            position_embedding_type="rope", share_embeddings_and_output_weights=False)
    counts[path] = sum(p.numel() for p in model.parameters())
print(json.dumps(counts))
"""

EXPECTED = {"0.1b": 122_407_680, "0.3b": 324_060_160, "0.5b": 480_953_344, "1.1b": 1_175_816_192}


def test_the_four_sizes_have_the_parameter_counts_of_the_protocol() -> None:
    paths = {size: str(RECIPES / "pretrain" / f"llama_{size}_meap.yaml") for size in EXPECTED}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *paths.values()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MEAP_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert {size: counts[path] for size, path in paths.items()} == EXPECTED


def test_the_official_initialisation_has_the_published_deviations() -> None:
    std, output_std = official_init_stds(hidden_size=2048, num_layers=24)
    assert std == pytest.approx((2 / (5 * 2048)) ** 0.5)
    assert output_std == pytest.approx(1 / (2048**0.5 * 24))
