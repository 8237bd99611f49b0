"""Build Megatron's GPT model on the meta device and print the names and shapes of its parameters as JSON.

    python -m tests.support.build_on_meta transformer_engine|local qkv_bias|plain qk_norm|plain tied|untied

With Transformer Engine the real layer spec is built without a GPU: its constructors ask the CUDA runtime a few questions,
which are answered here, and allocate nothing on the meta device.
"""

import contextlib
import json
import os
import sys
import types
from typing import Any

SIZES: dict[str, int] = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 176,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 32,
}
"""Heads x channels is not the hidden size, so that no two dimensions are equal by chance."""
VOCABULARY = 512


def answer_for_cuda() -> None:
    """Let Transformer Engine's constructors believe in a GPU of compute capability 9.0."""
    import torch

    properties = types.SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, name="none: meta device"
    )
    cuda: Any = torch.cuda
    cuda.is_available = lambda: True
    cuda.current_device = lambda: torch.device("meta")
    cuda.get_device_properties = lambda *args: properties
    cuda.get_device_capability = lambda *args: (9, 0)
    from megatron.core.tensor_parallel import random

    random.CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()


def build(engine: str, *, qkv_bias: bool, qk_norm: bool, tied: bool) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the parameters of a model with Megatron's own layer spec."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    from meap_megatron.launch import megatron_import, runtime
    from meap_megatron.training import platform

    if engine == "local":
        platform.prepare("cpu")
    else:
        os.environ["MASTER_PORT"] = str(runtime.free_port())
        megatron_import.quiet_imports()
        answer_for_cuda()
    import torch
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt import gpt_layer_specs as specs
    from megatron.core.transformer.transformer_config import TransformerConfig

    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    if engine == "local":
        from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

        model_parallel_cuda_manual_seed(1)
        spec = specs.get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=qk_norm)
    else:
        spec = specs.get_gpt_layer_with_transformer_engine_spec(qk_layernorm=qk_norm)
    config = TransformerConfig(
        **SIZES,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=qkv_bias,
        qk_layernorm=qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        gradient_accumulation_fusion=False,
        bf16=True,
        params_dtype=torch.bfloat16,
        init_model_with_meta_device=True,
        perform_initialization=False,
    )
    with torch.device("meta"):
        model = GPTModel(
            config,
            spec,
            vocab_size=VOCABULARY,
            max_sequence_length=128,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=tied,
        )
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    engine, bias, norm, head = sys.argv[1:]
    print(json.dumps(build(engine, qkv_bias=bias == "qkv_bias", qk_norm=norm == "qk_norm", tied=head == "tied")))
