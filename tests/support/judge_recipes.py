"""What Megatron itself says about the recipes of the model ladder: `python -m tests.support.judge_recipes` prints JSON.

A program of its own, because Megatron keeps parsed arguments and process groups in globals. Nothing is allocated: models are
built on the meta device, and a job of 512 GPUs is one whose WORLD_SIZE says so, up to the point where it would connect.
"""

import json
import os
from typing import Any

from meap_megatron.launch import runtime
from meap_megatron.training import platform

runtime.set_thread_policy()
platform.prepare("cpu")

import torch  # noqa: E402
from megatron.training import global_vars  # noqa: E402

from meap_megatron.checkpoint.convert.spec import padded_rows  # noqa: E402
from meap_megatron.errors import UserError  # noqa: E402
from meap_megatron.launch import arguments, sft_settings  # noqa: E402
from meap_megatron.launch.fitted import fitted  # noqa: E402
from meap_megatron.launch.flags import read_flags  # noqa: E402
from meap_megatron.launch.precision import PRECISIONS  # noqa: E402
from meap_megatron.launch.recipe import load  # noqa: E402
from meap_megatron.training.model import model_config  # noqa: E402
from meap_megatron.training.parsing import parse, refusing  # noqa: E402
from tests.support.runs import RECIPES  # noqa: E402

ROWS = {
    "pretrain/llama_0.1b_ntp": 32064,
    "pretrain/llama_0.3b_ntp": 32064,
    "pretrain/llama_0.5b_ntp": 32064,
    "pretrain/llama_1.1b_ntp": 32064,
    "sft/llama3.2_3b_ntp": 128256,
    "sft/llama3_8b_ntp": 128256,
    "sft/mistral_7b_v0.2_ntp": 32000,
    "sft/qwen2.5_14b_ntp": 152064,
    **{f"sft/qwen3_{size}_ntp": 151936 for size in ("0.6b", "1.7b", "4b", "8b", "14b")},
}
"""Recipe -> rows of the published embedding."""
LADDER_ENDS = ("pretrain/llama_0.3b_ntp", "sft/qwen2.5_14b_ntp")
FLAGS = read_flags()


def parsed(name: str, *overrides: str, gpus: int, rows: int, device: str = "cuda") -> Any:
    """Return the arguments of a recipe as the last rank of `gpus` parses and checks them."""
    os.environ |= {"WORLD_SIZE": str(gpus), "RANK": str(gpus - 1), "LOCAL_RANK": "0"}
    global_vars.unset_global_variables()
    is_sft = name.startswith("sft")
    recipe = load(
        RECIPES / f"{name}.yaml",
        [
            *("data_path=null", "mock_data=true", "tokenizer_type=NullTokenizer", f"vocab_size={rows}"),
            *(f"padded_vocab_size={rows}", "pretrained_checkpoint=null"),
            *(("meap_epochs=null", "train_iters=10", "calculate_per_token_loss=true") if is_sft else ()),
            *(("dataloader_inter_document_masking=true",) if is_sft else ()),
            *overrides,
        ],
    )
    words = fitted(recipe, device)[0].command_line(FLAGS)
    # Megatron's own checks refuse some kernels where Transformer Engine and Apex are not installed.
    own = (
        platform.flags_for("cpu", words)
        if device == "cpu"
        else ["--no-rope-fusion", "--no-gradient-accumulation-fusion"]
    )
    return parse([*words, *own])


def count(name: str) -> int:
    """Return the parameters of the model that Megatron builds."""
    one_device = ("precision=fp32", "use_distributed_optimizer=false", "overlap_grad_reduce=false")
    given = ("overlap_param_gather=false", "sequence_parallel=false", "tensor_model_parallel_size=1")
    args = parsed(name, *one_device, *given, gpus=1, rows=ROWS[name], device="cpu")
    from megatron.core.models.gpt import GPTModel

    from meap_megatron.training.torch_layers import block_spec

    config = model_config(args, device="cpu")
    config.transformer.init_model_with_meta_device = True
    config.transformer.use_cpu_initialization = False
    config.transformer.perform_initialization = False
    with torch.device("meta"):
        model = GPTModel(
            config.transformer,
            block_spec(config),
            vocab_size=args.padded_vocab_size,
            max_sequence_length=args.seq_length,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        )
    return sum(parameter.numel() for parameter in model.parameters())


def layout(name: str, gpus: str, *more: str) -> dict[str, Any]:
    """Return the parallel sizes that Megatron derives for a layout, after its checks and ours."""
    tensor = int(load(RECIPES / f"{name}.yaml", [f"layout={gpus}"]).get("tensor_model_parallel_size"))
    rows = padded_rows(ROWS[name] + 1, multiple=64, tensor_parallel=tensor)
    words = (f"layout={gpus}", "transformer_impl=transformer_engine")
    args = parsed(name, *words, *more, gpus=int(gpus), rows=rows)
    arguments.check(args)
    if name.startswith("sft"):
        sft_settings.check(args)
    with refusing():
        config = model_config(args, device="cuda").transformer
    sizes = (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "data_parallel_size",
    )
    return {
        "sizes": [getattr(args, size) for size in sizes],
        "micro_batches": args.global_batch_size / (args.micro_batch_size * args.data_parallel_size),
        "fp8": [config.fp8, str(getattr(config.fp8_recipe, "value", config.fp8_recipe)), str(config.params_dtype)],
    }


def attempt(name: str, *more: str) -> Any:
    """Return what `layout` says of 8 GPUs, or the refusal."""
    try:
        return layout(name, "8", *more)
    except UserError as error:
        return str(error)


def main() -> None:
    """Print everything as one JSON line, the last."""
    gpus = {name: list(load(RECIPES / f"{name}.yaml").layouts) for name in ROWS}
    verdicts = {
        "layouts": {name: {g: layout(name, g) for g in gpus[name]} for name in ROWS},
        "precisions": {name: {p: attempt(name, f"precision={p}") for p in PRECISIONS} for name in LADDER_ENDS},
        "pairs": {
            "mxfp8 hybrid": attempt(
                "pretrain/llama_1.1b_ntp",
                *("precision=null", "bf16=true", "fp8_format=hybrid", "fp8_recipe=mxfp8"),
            ),
            "gather": attempt(
                "pretrain/llama_1.1b_ntp",
                *("precision=fp8-delayed", "fp8_param_gather=true", "use_distributed_optimizer=false"),
                *("overlap_grad_reduce=false", "overlap_param_gather=false"),
            ),
            "mxfp8 gather": attempt(
                "pretrain/llama_1.1b_ntp",
                *("precision=mxfp8", "fp8_param_gather=true", "reuse_grad_buf_for_mxfp8_param_ag=true"),
            ),
            "local": attempt("pretrain/llama_1.1b_ntp", "precision=fp8-delayed", "transformer_impl=local"),
        },
    }
    os.environ |= {"WORLD_SIZE": "1", "RANK": "0"}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    verdicts["counts"] = {name: count(name) for name in ROWS}
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main()
