"""The form in which a checkpoint holds the model and Adam's state, compared with the run that is to continue from it.

Megatron names the float32 weights of the optimizer by its class: `param` with the distributed optimizer, in any precision;
`fp32_param` beside weights of 16 bits; not at all in float32, where they are those of the model. A run of another form ends
with a KeyError, or with groups that are not found.
"""

from collections.abc import Iterable
from pathlib import Path

from meap_megatron.checkpoint.index import INDEX
from meap_megatron.errors import UserError
from meap_megatron.launch.named_settings import Settings

DISTRIBUTED = "the distributed optimizer"
SIXTEEN_BITS = "weights of 16 bits and without the distributed optimizer"
FLOAT32 = "float32 weights and without the distributed optimizer"
MOMENTS = frozenset({"exp_avg", "exp_avg_sq"})
FORMS = {MOMENTS: FLOAT32, MOMENTS | {"fp32_param"}: SIXTEEN_BITS, MOMENTS | {"param"}: DISTRIBUTED}
"""Names below `optimizer.state.` -> what the run that saved them had."""
HYBRID_NORM = "decoder.final_norm.weight"
"""A tensor that only a hybrid model's checkpoint has."""
NOT_LOADED = ("finetune", "no_load_optim", "use_megatron_fsdp", "use_torch_fsdp2")


def form_of_checkpoint(names: Iterable[str]) -> str | None:
    """Return the form of the state among a checkpoint's tensors; None: another format, or none is there."""
    return FORMS.get(frozenset(name.split(".")[2] for name in names if name.startswith("optimizer.state.")))


def form_of_run(settings: Settings) -> str:
    """Return the form that a run makes."""
    if settings.on("use_distributed_optimizer"):
        return DISTRIBUTED
    return SIXTEEN_BITS if settings.has("bf16", "fp16") else FLOAT32


def require_same(checkpoint: Path, settings: Settings) -> None:
    """Refuse to continue from a state that this run cannot read. Imports torch, to read the checkpoint's index.

    Megatron gives a hybrid model the weights of a GPT, and no GPT those of a hybrid model.
    """
    if not (checkpoint / INDEX).is_file():
        return
    from meap_megatron.checkpoint.convert.pickles import read_index

    try:
        names = read_index(checkpoint / INDEX)[0].state_dict_metadata
    except Exception:  # a damaged pickle can raise anything, and is refused by whoever checks it
        return
    if HYBRID_NORM in names and not settings.has("hybrid_layer_pattern", "use_checkpoint_args"):
        raise UserError(
            f"{checkpoint} is of a hybrid model, and this run is a GPT",
            fix="set model=hybrid (or the hybrid_layer_pattern of the run that saved it)",
        )
    if settings.has(*NOT_LOADED):
        return
    there, here = form_of_checkpoint(names), form_of_run(settings)
    if there is None or there == here:
        return
    raise UserError(
        f"{checkpoint} was saved with {there}, and this run has {here}: "
        "Megatron cannot continue one from the other's optimizer state",
        fix="give the precision and use_distributed_optimizer of the first run, or take its weights alone: "
        f"pretrained_checkpoint={checkpoint.parent} and another save",
    )
