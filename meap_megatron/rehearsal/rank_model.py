"""One rank's part of the model, its gradients and its optimizer at their true sizes, built by Megatron's own set-up."""

from typing import Any

from meap_megatron.rehearsal.fakes import meta_device

DIMENSIONS = ("tensor", "context", "data", "pipeline")


def build(args: Any) -> tuple[list[Any], Any]:
    """Initialise Megatron as this rank and build its part of the model on the meta device.

    Returns:
        (the parts of the model, wrapped for data parallel; one, or one per virtual stage), (the optimizer)

    Raises:
        UserError: Megatron refuses the settings.
    """
    from megatron.core.enums import ModelType
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.training import training
    from megatron.training.argument_utils import pretrain_cfg_container_from_args
    from megatron.training.initialize import initialize_megatron

    from meap_megatron.training.model import model_config, with_torch_layers
    from meap_megatron.training.parsing import refusing

    with refusing():
        initialize_megatron(allow_no_cuda=True)
        config = model_config(args, device="cuda")
        with_torch_layers(config)
        config.transformer.init_model_with_meta_device = True
        config.transformer.perform_initialization = False
        config.transformer.use_cpu_initialization = False
        config.pre_wrap_hooks.clear()  # they read values
        container = pretrain_cfg_container_from_args(args, config)
        args.load = args.pretrained_checkpoint = None  # what a checkpoint holds is compared without loading it
        with meta_device():
            parts, optimizer, _ = training.setup_model_and_optimizer(
                ModelType.encoder_or_decoder,
                checkpointing_context={},
                cfg_container=container,
                pg_collection=ProcessGroupCollection.use_mpu_process_groups(),
            )
    return parts, optimizer


def place() -> dict[str, dict[str, Any]]:
    """Return the place of this rank in each dimension: its number, the size, and the ranks it exchanges with."""
    import torch.distributed
    from megatron.core import mpu

    groups = {
        "tensor": mpu.get_tensor_model_parallel_group(),
        "pipeline": mpu.get_pipeline_model_parallel_group(),
        "context": mpu.get_context_parallel_group(),
        "data": mpu.get_data_parallel_group(),
    }
    return {
        name: {
            "rank": torch.distributed.get_rank(groups[name]),
            "size": groups[name].size(),
            "ranks": torch.distributed.get_process_group_ranks(groups[name]),
        }
        for name in DIMENSIONS
    }


def contents(parts: list[Any]) -> dict[str, Any]:
    """Return what the model's parts on this rank hold: layers, tables and parameters."""
    from megatron.training.training import unwrap_model

    models = unwrap_model(parts)
    return {
        "layers": [[layer.layer_number - 1 for layer in model.decoder.layers] for model in models],
        "embedding": any(model.pre_process for model in models),
        "head": any(model.post_process for model in models),
        "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
        "type": str(next(p.dtype for m in models for p in m.parameters())).removeprefix("torch."),
    }


def memory(parts: list[Any], optimizer: Any) -> dict[str, int]:
    """Return the bytes that this rank needs before the first activation, as Megatron's buffers and shards have them.

    Args:
        parts: the wrapped parts of the model.
        optimizer: Megatron's, with the parameters that it updates on this rank.

    Returns:
        weights, gradients, optimizer (main parameters where the weights are not float32, and both Adam moments)
    """
    import torch

    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    buffers = [b for part in parts for b in [*part.buffers, *getattr(part, "expert_parallel_buffers", [])]]
    gradients = sum(buffer.grad_data.numel() * buffer.grad_data.element_size() for buffer in buffers)
    updated = [p for group in optimizer.param_groups for p in group["params"]]
    main = all(p.dtype == torch.float32 for part in parts for p in part.parameters())
    state = sum(p.numel() * (p.element_size() * (0 if main else 1) + moment_bytes(optimizer)) for p in updated)
    return {"weights": weights, "gradients": gradients, "optimizer": state}


def moment_bytes(optimizer: Any) -> int:
    """Return the bytes of both Adam moments of one parameter."""
    return sum(getattr(optimizer.config, name).itemsize for name in ("exp_avg_dtype", "exp_avg_sq_dtype"))
