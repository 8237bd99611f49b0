"""Count what a forward pass of Megatron's GPT model keeps for the backward pass, on a CPU, and print it as JSON.

    python -m tests.planning.saved_activations '{"num_layers": 2, "hidden_size": 64, ...}'

A program of its own, because Megatron keeps process groups in globals. The layers are Megatron's local ones with torch's
RMSNorm and, for attention, torch's fused one. What autograd saves is seen through
`torch.autograd.graph.saved_tensors_hooks`; every storage counts once, and parameters and what exists without a batch
do not count.
"""

import json
import sys
from typing import Any

from meap_megatron.launch import runtime
from meap_megatron.training import platform

runtime.set_thread_policy()
platform.prepare("cpu")

import torch  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from meap_megatron.training.torch_layers import TorchAttention  # noqa: E402


def saved(case: dict[str, Any]) -> dict[str, int]:
    """Return the bytes that the layers keep, and those of the rest of the model (embedding, head, loss)."""
    config = TransformerConfig(
        **{name: case[name] for name in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")},
        **{name: case[name] for name in ("num_query_groups", "kv_channels")},
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        gradient_accumulation_fusion=False,
        **case.get("more", {}),
    )
    layer = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
    layer.submodules.self_attention.submodules.core_attention = TorchAttention
    model = GPTModel(
        config,
        layer,
        vocab_size=case["vocabulary"],
        max_sequence_length=case["seq_length"],
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[str, dict[int, int]] = {"layers": {}, "rest": {}}
    held: list[torch.Tensor] = []
    where = "rest"

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in kept["layers"]:
            kept[where].setdefault(storage.data_ptr(), storage.nbytes())
        held.append(tensor)  # so that no address is used twice
        return tensor

    def enter(*unused: Any) -> None:
        nonlocal where
        where = "layers"

    def leave(*unused: Any) -> None:
        nonlocal where
        where = "rest"

    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(enter)
        layer.register_forward_hook(leave)
    shape = (case["micro_batch"], case["seq_length"])
    tokens = torch.randint(case["vocabulary"], shape)
    positions = torch.arange(shape[1]).expand(shape)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens, positions, None, labels=tokens)
    return {name: sum(storages.values()) for name, storages in kept.items()}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    print(json.dumps([saved(case) for case in json.loads(sys.argv[1])]))
