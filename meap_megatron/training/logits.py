"""The logits of a checkpoint by Megatron's own model, on a CPU: the other side of what transformers computes.

    python -m meap_megatron.training.logits REQUEST.json

REQUEST holds `checkpoint` (an iter_* or release folder), `settings` (recipe keys that build the model, or its first layers),
`layers` (those of the checkpoint), `sequences` (ids and positions) and `output`. Written is a file of torch.save with, per
sequence, the logits and what leaves the embedding and every layer. Megatron loads the checkpoint as its trainer does;
everything is computed in float32.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from meap_megatron.checkpoint.convert.megatron_config import argv_of
from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import runtime
from meap_megatron.launch.ranks import rank_environment
from meap_megatron.terminal import print_error
from meap_megatron.training import platform
from meap_megatron.training.parsing import parse

ONE_STEP = (
    "--mock-data --tokenizer-type=NullTokenizer --micro-batch-size=1 --global-batch-size=1 --train-iters=1 --lr=1e-3 "
    "--eval-iters=0 --meap-device=cpu"
).split()
"""What Megatron's parser asks for although nothing is trained."""


def compute(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return, per sequence, `logits` [s, v] at the wanted positions and `hidden` (list of [s, h], the embedding first).

    Raises:
        UserError: Megatron refuses the settings or the checkpoint.
    """
    runtime.set_thread_policy()
    os.environ.update(rank_environment(0, world=1, port=runtime.free_port()))
    platform.prepare("cpu")
    settings = dict(request["settings"])
    longest = max(len(sequence["ids"]) for sequence in request["sequences"])
    argv = [f"--seq-length={longest}", f"--vocab-size={settings['padded_vocab_size'] - 1}", *ONE_STEP]
    settings["max_position_embeddings"] = max(settings["max_position_embeddings"], longest)
    argv += argv_of(settings)
    args = parse([*argv, *platform.flags_for("cpu", argv)])

    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.training.initialize import initialize_megatron
    from megatron.training.models.base import compose_hooks

    from meap_megatron.training.model import model_config

    initialize_megatron(allow_no_cuda=True)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    config = model_config(args, device="cpu")
    (model,) = compose_hooks(config.pre_wrap_hooks)([config.get_builder_cls()(config).build_model(groups).eval()])
    common = dist_checkpointing.load_common_state_dict(request["checkpoint"])
    metadata = {**(common.get("content_metadata") or {}), "dp_cp_group": groups.dp_cp}
    wanted = {"model": model.sharded_state_dict(metadata=metadata)}
    if settings["num_layers"] < request["layers"]:
        wanted = {"model": first_layers(wanted["model"])}
    loaded = dist_checkpointing.load(wanted, request["checkpoint"], validate_access_integrity=False)
    missing, unexpected = model.load_state_dict(loaded["model"], strict=False)
    wrong = [name for name in (*missing, *unexpected) if not name.endswith("_extra_state")]
    assert not wrong, f"the model and what was loaded do not agree on {wrong}"
    with torch.no_grad():
        return [run(model, sequence) for sequence in request["sequences"]]


def first_layers(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a model of fewer layers than its checkpoint asks for: the beginning of tensors [all layers, ...].

    Megatron compares shapes unless a tensor says otherwise, and loads the part that both have. The `_extra_state` of a
    layer carries the number of all layers in its name, and nothing that a computation in float32 needs.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory

    def part(value: Any) -> Any:
        if isinstance(value, ShardedTensor) and value.prepend_axis_num:
            return dataclasses.replace(value, allow_shape_mismatch=True)
        if isinstance(value, ShardedTensorFactory):  # gate and up, which Megatron fuses
            build = value.build_fn
            return dataclasses.replace(value, build_fn=lambda *given: [part(one) for one in build(*given)])
        return value

    return {name: part(value) for name, value in state.items() if not isinstance(value, ShardedObject)}


def run(model: Any, sequence: dict[str, Any]) -> dict[str, Any]:
    """Run one sequence.

    Args:
        model: Megatron's GPTModel, or its HybridModel of a GPT's blocks.
        sequence: `ids` int[s], `positions` int[s] (increasing, gaps allowed), `first` (logits from this index on).
    """
    import torch

    seen: list[torch.Tensor] = []
    layers = list(model.decoder.layers)
    blocks = layers[1::2] if hasattr(model, "hybrid_layer_pattern") else layers
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out)[:, 0])
        )
        for module in (model.embedding, *blocks)
    ]
    positions = torch.tensor(sequence["positions"])
    rope = model.rotary_pos_emb
    if not torch.equal(positions, torch.arange(len(positions))):
        model.rotary_pos_emb = gathered(rope, positions)
    try:
        logits = model(torch.tensor([sequence["ids"]]), positions[None], None)[0]
    finally:
        model.rotary_pos_emb = rope
        for hook in hooks:
            hook.remove()
    return {"logits": logits[sequence["first"] :].float().clone(), "hidden": [x.float().clone() for x in seen]}


def gathered(rope: Any, positions: Any) -> Any:
    """Return Megatron's rotary embedding at given positions instead of 0, 1, 2, ..."""
    import torch

    class Gathered(torch.nn.Module):
        def forward(self, length: int, *args: Any, **kwargs: Any) -> Any:
            del length
            found = rope(int(positions.max()) + 1, *args, **kwargs)
            # YaRN's comes with its factor of attention.
            return (found[0][positions], found[1]) if isinstance(found, tuple) else found[positions]

        def get_rotary_seq_len(self, *args: Any, **kwargs: Any) -> int:
            return int(rope.get_rotary_seq_len(*args, **kwargs))

    return Gathered()


def main(path: str) -> int:
    """Answer one request; returns the exit status."""
    import torch

    request = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        torch.save(compute(request), request["output"])
    except (UserError, RunError) as error:
        print_error(error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
