"""Which settings go together? Rules of Megatron 0.19 that end in a bare assert, a TypeError or silence, checked beforehand.

Each rule is a function of the settings that returns sentences; `findings` is all of them. Ranges of single numbers are in
`limits`, divisibility in `parallelism`, 8-bit formats in `precision`, length and learning rate in `schedule_rules`, data in
`data_rules` and `splits`.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.launch import data_rules, limits, parallelism, pattern_rules, schedule_rules, switches
from meap_megatron.launch.named_settings import Settings
from meap_megatron.masking.corruption import Corruption
from meap_megatron.masking.loss import LossOn
from meap_megatron.masking.ratio import MaskRatio

STEPS = 500
"""Between two checkpoints, and between two evaluations, where a run does not say."""

REQUIRED = {
    "num_layers": "the number of layers",
    "hidden_size": "the width of the model",
    "num_attention_heads": "the number of attention heads",
    "seq_length": "the tokens of a row",
}
"""What a model cannot do without."""


def defaults(settings: Settings) -> dict[str, Any]:
    """Return values for settings without which Megatron ends in an assert or a TypeError, and which have a sensible one."""
    wanted = {
        "micro_batch_size": 1,
        "max_position_embeddings": settings.get("seq_length"),
        "save_interval": STEPS if settings.get("save") is not None else None,
        "eval_interval": STEPS,
        # Megatron's placeholder: training never tokenises, and data of ours says its vocabulary itself.
        "tokenizer_type": "NullTokenizer" if settings.on("mock_data") and settings.has("vocab_size") else None,
        # Of a single set, Megatron 0.19 wants to read the first of a number at the first validation.
        "multiple_validation_sets": True if settings.on("full_validation") else None,
    }
    if settings.get("wandb_project") and settings.get("save") is not None:
        wanted["wandb_exp_name"] = Path(str(settings.get("save"))).name
    return {name: value for name, value in wanted.items() if value is not None and settings.get(name) is None}


def flags_of(added: dict[str, Any]) -> list[str]:
    """Return settings, switches that are on or with one value each, as arguments of a command line."""
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in added.items()]


def findings(settings: Settings, *, world: int | None) -> list[UserError]:
    """Return everything that is wrong with the settings alone, each with key, value, rule and remedy.

    Args:
        world: processes of the job; None: not known here.
    """
    return [
        *of_numbers(settings),
        *of_model(settings),
        *of_rotation(settings),
        *pattern_rules.findings(settings),
        *schedule_rules.findings(settings),
        *of_switches(settings),
        *switches.findings(settings),
        *of_recompute(settings),
        *of_writers(settings),
        *of_device(settings),
        *data_rules.of_data(settings),
        *of_masked_inputs(settings),
        *parallelism.findings(settings, parallelism.of_settings(settings, world=world)),
    ]


def of_numbers(settings: Settings) -> Iterator[UserError]:
    """Yield numbers out of their range."""
    for name, setting in settings.table.items():
        for value in setting.value if isinstance(setting.value, list) else [setting.value]:
            if (rule := limits.broken(name, value)) is not None:
                yield UserError(f"{settings.where(name)}{rule}")


def of_masked_inputs(settings: Settings) -> Iterator[UserError]:
    """Yield forms of the masked inputs that cannot be read."""
    readers: dict[str, Callable[[Any], Any]] = {
        "meap_mask_ratio": MaskRatio.parse,
        "meap_corruption": lambda value: Corruption.parse(str(value)),
        "meap_loss_on": lambda value: LossOn.parse(str(value)),
        "meap_pair_weight": lambda value: LossOn.parse("all", pair_weight=value),
    }
    for name, read in readers.items():
        value = settings.get(name)
        if value is None or limits.broken(name, value):
            continue
        try:
            read(value)
        except UserError as error:
            yield error.at(f"{settings.where(name)}{name}")


def of_model(settings: Settings) -> Iterator[UserError]:
    """Yield what is missing of the model, or would be ignored."""
    if settings.on("use_checkpoint_args"):
        return
    for name, what in REQUIRED.items():
        other = {"num_layers": "encoder_num_layers", "seq_length": "encoder_seq_length"}.get(name, name)
        others = (other, "hybrid_layer_pattern") if name == "num_layers" else (other,)
        if settings.get(name) is None and not settings.has(*others):
            yield UserError(
                f"{name} ({what}) is not given",
                fix="set it, or start the recipe with `extends:` a model, such as the model.yaml of an import",
            )
    for name, other in (("num_layers", "encoder_num_layers"), ("seq_length", "encoder_seq_length")):
        if settings.has(name) and settings.has(other):
            yield UserError(
                f"{settings.quoted(other)} and {name}={settings.get(name)} are two names of one setting",
                fix=f"leave {other} out",
            )
    groups, heads = settings.whole("num_query_groups"), settings.whole("num_attention_heads")
    if groups and heads and groups != heads and not settings.on("group_query_attention"):
        yield UserError(
            f"{settings.quoted('num_query_groups')} has no effect without group_query_attention=true, and the model would "
            f"have {heads} key-value heads",
            fix="set it, or leave num_query_groups out",
        )
    if settings.get("ffn_hidden_size") is None and parallelism.feed_forward_width(settings) == 0:
        yield UserError(
            f"{settings.quoted('hidden_size')} with swiglu gives a feed-forward layer of width 0: where ffn_hidden_size is "
            "not given, it is 8/3 of hidden_size, rounded down to a multiple of 64",
            fix="set ffn_hidden_size",
        )


def of_rotation(settings: Settings) -> Iterator[UserError]:
    """Yield settings of the rotary embedding that Megatron ignores, or refuses by a bare assert."""
    if settings.on("use_checkpoint_args"):
        return
    kind = settings.get("position_embedding_type")
    if kind not in (None, "rope", "mrope", "yarn") and settings.has("rotary_base"):
        yield UserError(
            f"{settings.quoted('rotary_base')} has no effect without position_embedding_type=rope",
            fix="set it, or leave rotary_base out",
        )
    if kind == "yarn":
        for name in ("rotary_scaling_factor", "yarn_original_max_position_embeddings"):
            if not settings.has(name):
                yield UserError(
                    f"{settings.quoted('position_embedding_type')} needs {name}, which Megatron would guess",
                    fix=f"set {name}",
                )
        for name in ("use_rope_scaling", "rotary_seq_len_interpolation_factor"):
            if settings.has(name):
                yield UserError(
                    f"{settings.quoted(name)} has no effect with position_embedding_type=yarn", fix="leave it out"
                )
    elif not settings.on("multi_latent_attention"):
        of_yarn = (name for name in settings.table if name.startswith("yarn_"))
        for name in ("rotary_scaling_factor", "mscale", "mscale_all_dim", *of_yarn):
            if settings.has(name):
                yield UserError(
                    f"{settings.quoted(name)} has no effect without position_embedding_type=yarn",
                    fix="set both or neither",
                )
    layers, skips = settings.whole("num_layers"), settings.get("no_rope_freq")
    every = settings.whole("no_rope_freq")
    if layers and every and layers % every:
        yield UserError(
            f"{settings.quoted('no_rope_freq')} must divide num_layers={layers}, or be a list with a 1 per layer to skip"
        )
    if layers and isinstance(skips, str) and skips.startswith("[") and "*" not in skips:
        if (count := skips.count(",") + 1) != layers:
            yield UserError(
                f"{settings.quoted('no_rope_freq')} lists {count} layers, and num_layers={layers}",
                fix="list each layer",
            )


def of_switches(settings: Settings) -> Iterator[UserError]:
    """Yield switches that do not fit a size; `switches` has the others."""
    if settings.on("tp_comm_overlap") and (settings.whole("tensor_model_parallel_size") or 1) < 2:
        yield UserError(
            f"{settings.quoted('tp_comm_overlap')} needs tensor_model_parallel_size above 1", fix="leave it out"
        )
    every, of = settings.whole("log_memory_interval"), settings.whole("log_interval", 100)
    if every and of and every % of:
        yield UserError(f"{settings.quoted('log_memory_interval')} must be a multiple of log_interval={of}")
    if (sizes := settings.get("hierarchical_context_parallel_sizes")) is not None:
        product = math.prod(int(float(size)) for size in (sizes if isinstance(sizes, list) else [sizes]))
        if product != (settings.whole("context_parallel_size") or 1):
            yield UserError(
                f"{settings.quoted('hierarchical_context_parallel_sizes')}: their product {product} must be "
                f"context_parallel_size={settings.whole('context_parallel_size') or 1}"
            )


def of_recompute(settings: Settings) -> Iterator[UserError]:
    """Yield what recomputation of activations lacks, or has too much."""
    kind = settings.get("recompute_granularity")
    if kind == "selective" or (kind is None and settings.on("recompute_activations")):
        for name in ("recompute_method", "recompute_num_layers"):
            if settings.get(name) is not None:
                yield UserError(
                    f"{settings.quoted(name)} is for recompute_granularity=full, and this is selective",
                    fix="leave it out",
                )
    elif kind == "full":
        missing = [name for name in ("recompute_method", "recompute_num_layers") if settings.get(name) is None]
        if missing:
            yield UserError(
                f"{settings.quoted('recompute_granularity')} needs {' and '.join(missing)}",
                fix="for every layer use recompute_method=uniform recompute_num_layers=1",
            )
    if settings.on("distribute_saved_activations") and (
        kind != "full" or (settings.whole("tensor_model_parallel_size") or 1) < 2
    ):
        yield UserError(
            f"{settings.quoted('distribute_saved_activations')} needs recompute_granularity=full and tensor parallel",
            fix="leave it out",
        )


def of_writers(settings: Settings) -> Iterator[UserError]:
    """Yield what checkpoints and logs lack."""
    if settings.has("wandb_project") and not settings.has("save", "wandb_save_dir"):
        yield UserError(f"{settings.quoted('wandb_project')} needs a folder", fix="set save, or wandb_save_dir")
    if settings.get("wandb_project") and settings.get("wandb_exp_name") == "":
        yield UserError(
            "wandb_exp_name is empty", fix="give the run a name, or leave it out to take the name of the save folder"
        )
    if settings.has("exit_on_missing_checkpoint") and not settings.has("load", "save", "pretrained_checkpoint"):
        yield UserError(
            f"{settings.quoted('exit_on_missing_checkpoint')} needs load, the folder of the checkpoint", fix="set load"
        )


def of_device(settings: Settings) -> Iterator[UserError]:
    """Yield what needs a GPU in a run that is to use none."""
    context = settings.whole("context_parallel_size") or 1
    if "cpu" in (settings.get("device"), settings.get("meap_device")) and context > 1:
        yield UserError(
            f"{settings.where('device')}device=cpu: context_parallel_size={context} needs GPUs",
            fix="set context_parallel_size=1",
        )
