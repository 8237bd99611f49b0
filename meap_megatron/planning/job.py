"""A recipe as the planner reads it: the model, the batch, how much is trained, and what had to be assumed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import read_sidecar, sidecar_path
from meap_megatron.launch.blend import prefixes_of
from meap_megatron.launch.data_rules import FINE_TUNING
from meap_megatron.launch.fitted import fitted
from meap_megatron.launch.parallelism import default_ffn
from meap_megatron.launch.recipe import Recipe, load
from meap_megatron.layer_pattern import BLOCK, DELTA_NET, LAYERS, MAMBA, RECURRENT, layers_of, period_of
from meap_megatron.planning.layout import FULL, NONE, SELECTIVE, PlannedLayout
from meap_megatron.planning.model_shape import Model, Recurrent

LLAMA_2_ROWS = 32_001
LLAMA_3_ROWS = 128_257
"""Pieces of the tokenizers of the paper's runs, with `[MASK]`: assumed where nothing says better."""

NOT_PLANNED = {
    "num_experts": "mixtures of experts",
    "multi_latent_attention": "multi-latent attention",
    "mtp_num_layers": "multi-token prediction",
    "window_size": "sliding windows",
    "use_megatron_fsdp": "fully sharded data parallel",
}
"""Settings whose memory and time these formulas do not know."""


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """What is to be trained."""

    recipe: Recipe
    settings: Mapping[str, Any]
    """The recipe's, by Megatron's names."""
    pieces: int
    """Ids of the vocabulary, before padding."""
    seq_length: int
    global_batch: int
    """Sequences per step."""
    tokens: int | None
    """To be trained in all; None if the recipe counts epochs."""
    fp8: bool
    fine_tuning: bool
    notes: list[str] = field(default_factory=list)
    """What was assumed, in sentences."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step."""
        return self.global_batch * self.seq_length

    @property
    def pattern(self) -> str | None:
        """Layers of a hybrid model, without cuts; None for a GPT, `model: hybrid` included."""
        pattern = self.settings.get("hybrid_layer_pattern")
        return None if pattern is None else layers_of(str(pattern))

    def layers(self) -> tuple[int, str]:
        """Return how often the model repeats which layers: a GPT of 12 layers is (12, "*-")."""
        if self.pattern is None:
            return whole(self.settings, "num_layers"), BLOCK
        unit = period_of(self.pattern)
        return len(self.pattern) // len(unit), unit

    def model(self, tensor: int) -> Model:
        """Return the model; the rows of its tables are a multiple of the tensor-parallel size."""
        get = self.settings.get
        repeats, unit = self.layers()
        heads = whole(self.settings, "num_attention_heads")
        hidden = whole(self.settings, "hidden_size")
        grouped = get("group_query_attention") and get("num_query_groups")
        gated = bool(get("swiglu"))
        step = math.lcm(int(get("make_vocab_size_divisible_by") or 128), tensor)
        positions = get("position_embedding_type") or "learned_absolute"
        return Model(
            num_layers=repeats,
            attentions=unit.count("*"),
            feed_forwards=unit.count("-"),
            recurrents=recurrents(self.settings, unit, hidden=hidden),
            hidden_size=hidden,
            ffn_hidden_size=int(get("ffn_hidden_size") or default_ffn(hidden, gated=gated)),
            num_attention_heads=heads,
            num_query_groups=int(grouped or heads),
            kv_channels=int(get("kv_channels") or hidden // heads),
            vocabulary=int(get("padded_vocab_size") or -(-self.pieces // step) * step),
            gated=gated,
            tied=not get("untie_embeddings_and_output_weights"),
            qkv_bias=bool(get("add_qkv_bias")),
            qk_norm=bool(get("qk_layernorm")),
            linear_bias=not get("disable_bias_linear"),
            layer_norm=get("normalization") != "RMSNorm",
            learned_positions=int(get("max_position_embeddings") or 0) if positions == "learned_absolute" else 0,
            unfused_loss=not get("cross_entropy_loss_fusion"),
        )


def recurrents(settings: Mapping[str, Any], layers: str, *, hidden: int) -> tuple[Recurrent, ...]:
    """Return the Mamba-2 layers and gated delta nets among some layers, in their order."""
    state, size, groups = (int(settings.get(name) or default) for name, default in MAMBA.items())
    heads = int(settings.get("mamba_num_heads") or 2 * hidden // size)
    kinds = {"M": Recurrent.mamba(heads=heads, head_size=size, groups=groups, state=state)}
    if "G" in layers:
        key, value, keys, values, width = (whole(settings, name) for name in DELTA_NET)
        kinds["G"] = Recurrent.delta_net(
            key_heads=keys, key_size=key, value_heads=values, value_size=value, width=width
        )
    return tuple(kinds[symbol] for symbol in layers if symbol in kinds)


def whole(settings: Mapping[str, Any], name: str) -> int:
    """Return a setting that a plan cannot do without.

    Raises:
        UserError: it is missing or no whole number above 0.
    """
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"{name}={value!r}: a plan needs a whole number above 0", fix=f"give it in the recipe or as {name}=N"
        )
    return value


def read(
    path: str | Path, overrides: list[str] | None = None, *, vocabulary: int | None = None, tokens: int | None = None
) -> PlannedJob:
    """Read a recipe.

    Args:
        vocabulary: ids of the tokenizer, `[MASK]` included; None: the data's, the recipe's, or an assumption.
        tokens: to be trained in all; None: the recipe's.

    Raises:
        UserError: no such recipe, or settings for which there are no formulas.
    """
    recipe, _ = fitted(load(path, overrides), "cuda")
    # The blocks of a hybrid model cost what those of its GPT do, and a plan cuts them itself.
    gpt = replace(recipe, settings={name: one for name, one in recipe.settings.items() if name != "model"})
    settings = {name: setting.value for name, setting in gpt.resolved().items() if setting.value is not None}
    check_pattern(str(path), settings.get("hybrid_layer_pattern"))
    for name, what in NOT_PLANNED.items():
        if settings.get(name):
            raise UserError(f"{path}: {name}={settings[name]}: there are no formulas for {what}")
    notes: list[str] = []
    if not settings.get("bf16"):
        notes.append("the recipe trains in float32; planned, and written down, with precision=bf16")
    if settings.get("device") == "cpu":
        notes.append("the recipe runs on a CPU; planned, and written down, with device=cuda")
    sidecars = [read_sidecar(prefix) for prefix in prefixes(settings) if sidecar_path(prefix).exists()]
    fine_tuning = any(sidecar.kind == "sft" for sidecar in sidecars) or any(settings.get(name) for name in FINE_TUNING)
    if vocabulary is None:
        vocabulary = settings.get("padded_vocab_size") or settings.get("vocab_size")
    if vocabulary is None and sidecars:
        vocabulary = max(sidecar.tokenizer.vocab_size for sidecar in sidecars)
    if vocabulary is None:
        vocabulary = LLAMA_3_ROWS if fine_tuning else LLAMA_2_ROWS
        name = "Llama-3" if fine_tuning else "Llama-2"
        where = ", ".join(prefixes(settings)) or "data_path"
        notes.append(
            f"{where} is not here: a vocabulary of {vocabulary:,} ids ({name}'s and [MASK]) is assumed; --vocabulary N says "
            "otherwise"
        )
    if set(str(settings.get("hybrid_layer_pattern"))) & set(RECURRENT):
        notes.append(
            "layers M and G: parameters and FLOP are exact; time and memory follow from the bytes that their kernels move "
            "and keep, and no measured run has been compared with them"
        )
    if settings.get("meap_pair") == "clean+masked":
        notes.append("meap_pair=clean+masked: a sample is two sequences of a step, so a token of data costs twice")
    if fine_tuning:
        notes.append(
            "attention is counted over whole rows; packed conversations attend within themselves, so steps are shorter"
        )
    seq_length, batch = whole(settings, "seq_length"), whole(settings, "global_batch_size")
    return PlannedJob(
        recipe=recipe,
        settings=settings,
        pieces=int(vocabulary),
        seq_length=seq_length,
        global_batch=batch,
        tokens=tokens or tokens_of(settings, seq_length=seq_length, batch=batch),
        fp8=bool(settings.get("fp8_format")),
        fine_tuning=fine_tuning,
        notes=notes,
    )


def check_pattern(path: str, pattern: Any) -> None:
    """Refuse a hybrid model with layers of which the formulas know nothing."""
    if pattern is None:
        return
    for symbol in layers_of(str(pattern)):
        if symbol not in (*BLOCK, *RECURRENT):
            what = LAYERS.get(symbol, "unknown")
            raise UserError(
                f"{path}: hybrid_layer_pattern={pattern}: there are no formulas for {what} layers ({symbol})"
            )


def prefixes(settings: Mapping[str, Any]) -> list[str]:
    """Return the datasets that a recipe names."""
    return prefixes_of(settings.get("data_path") or settings.get("train_data_path") or [])


def tokens_of(settings: Mapping[str, Any], *, seq_length: int, batch: int) -> int | None:
    """Return the tokens that a recipe trains, None if it counts epochs of data."""
    if settings.get("train_iters"):
        return int(float(settings["train_iters"])) * batch * seq_length
    if settings.get("train_samples"):
        return int(float(settings["train_samples"])) * seq_length
    return None


def own_layout(job: PlannedJob, gpus: int) -> PlannedLayout | None:
    """Return the layout that the recipe itself has for so many GPUs (`layout=N`), None without one."""
    if str(gpus) not in job.recipe.layouts:
        return None
    own = {name: setting.value for name, setting in job.recipe.layouts[str(gpus)].items()}
    return layout_of({**job.settings, **own}, gpus=gpus, global_batch=job.global_batch)


def layout_of(settings: Mapping[str, Any], *, gpus: int, global_batch: int) -> PlannedLayout | None:
    """Return the layout that settings by Megatron's names describe, None if they do not divide GPUs and batch."""
    sizes = [int(settings.get(f"{name}_parallel_size") or 1) for name in ("tensor_model", "pipeline_model", "context")]
    data, left = divmod(gpus, math.prod(sizes))
    micro = int(settings.get("micro_batch_size") or 1)
    if left or not data or global_batch % (data * micro):
        return None
    granularity = settings.get("recompute_granularity")
    return PlannedLayout(
        tensor=sizes[0],
        pipeline=sizes[1],
        context=sizes[2],
        data=data,
        micro_batch=micro,
        num_micro_batches=global_batch // (data * micro),
        virtual=int(settings.get("num_virtual_stages_per_pipeline_rank") or 1),
        sequence_parallel=bool(settings.get("sequence_parallel")),
        distributed_optimizer=bool(settings.get("use_distributed_optimizer")),
        recompute={None: NONE, "full": FULL}.get(granularity, SELECTIVE),
        first_layers=settings.get("decoder_first_pipeline_num_layers"),
        last_layers=settings.get("decoder_last_pipeline_num_layers"),
        tensor_overlap=bool(settings.get("tp_comm_overlap")),
        data_overlap=bool(settings.get("overlap_grad_reduce")),
    )
