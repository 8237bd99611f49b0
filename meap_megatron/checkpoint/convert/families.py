"""The model families that are known: one table of tensor names, and per family the config fields and what is refused.

To add a family of the same architecture, add an entry to `FAMILIES`. Megatron's own names are those of its distributed
checkpoints, which are the same for its local layers and for Transformer Engine: the local layer spec of Megatron renames
`input_layernorm` and `pre_mlp_layernorm` to Transformer Engine's fused names when it saves and loads. Checkpoints that
hold the local names are read too (`ALIASES`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from meap_megatron.checkpoint.convert.spec import ModelSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type` of transformers.

    Attributes:
        architecture: class name in `architectures`.
        models: published models of the family, for the documentation.
        carried: what is carried over beside the shape and the scaling of the rotary frequencies, likewise.
        qkv_bias: whether query, key and value have a bias.
        qk_norm: whether each query head and each key head is normalised.
        skips_rope: whether layers without rotation are possible.
        refused: config field -> (values that change nothing, why another value is refused).
        defaults: config field -> what transformers takes where the field is absent, if that is not "none".
        rotary_base: what transformers takes where the config names none.
        written: config fields beside those of every family, in a new config.
    """

    architecture: str
    models: str
    carried: str
    qkv_bias: bool = False
    qk_norm: bool = False
    skips_rope: bool = False
    refused: dict[str, tuple[tuple[Any, ...], str]]
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    rotary_base: float = 10_000.0
    written: dict[str, Any] = dataclasses.field(default_factory=dict)

    def builds(self, *, qkv_bias: bool, qk_norm: bool, no_rope: bool) -> bool:
        """Tell whether a model with these parts is one of the family."""
        same = qkv_bias == self.qkv_bias and qk_norm == self.qk_norm
        return same and (self.skips_rope or not no_rope)


SWIGLU = {"hidden_act": (("silu",), "the MLP must be SwiGLU")}
UNSUPPORTED = {
    "attention_bias": ((False, None), "a bias on the attention projections of this family has no place in Megatron"),
    "mlp_bias": ((False, None), "a bias in the MLP is not converted"),
    "pretraining_tp": ((1, None), "sliced matrix products give other roundings"),
    "quantization_config": ((None,), "quantised weights are not converted; give the original ones"),
    "num_local_experts": ((None, 0), "mixtures of experts are not converted"),
    "num_experts": ((None, 0), "mixtures of experts are not converted"),
    "partial_rotary_factor": ((1, 1.0, None), "rotary positions must cover the whole head"),
    "attn_logit_softcapping": ((None,), "soft-capped attention is not converted"),
    "final_logit_softcapping": ((None,), "soft-capped logits are not converted"),
    "add_cross_attention": ((False, None), "cross attention is not converted"),
}

WINDOW = {"use_sliding_window": ((False, None), "a sliding window is not converted; this model attends within one")}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        models="Llama 2, 3, 3.1, 3.2, 3.3, TinyLlama, SmolLM 1 and 2, every MEAP pre-training size",
        carried="grouped queries, tied embeddings, own head size",
        refused=SWIGLU | UNSUPPORTED,
        written={"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
        models="Mistral 7B without a sliding window in use (v0.2, v0.3)",
        carried="grouped queries, own head size",
        refused=SWIGLU | UNSUPPORTED,
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
        written={"sliding_window": None},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        models="Qwen2, Qwen2.5 (dense)",
        carried="bias of query, key, value; tied embeddings; padded tables",
        qkv_bias=True,
        refused=SWIGLU | UNSUPPORTED | WINDOW,
        defaults={"num_key_value_heads": 32},
        written={"use_sliding_window": False},
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        models="Qwen3 0.6B to 32B (dense)",
        carried="norms of queries and keys, own head size, tied embeddings, padded tables",
        qk_norm=True,
        refused=SWIGLU | UNSUPPORTED | WINDOW,
        defaults={"num_key_value_heads": 32, "head_dim": 128},
        written={"attention_bias": False, "use_sliding_window": False},
    ),
    "smollm3": Family(
        architecture="SmolLM3ForCausalLM",
        models="SmolLM3-3B",
        carried="layers without rotation (`no_rope_layers`), tied embeddings",
        skips_rope=True,
        refused=SWIGLU | UNSUPPORTED | WINDOW,
        defaults={"num_key_value_heads": 4, "tie_word_embeddings": True, "no_rope_layer_interval": 4},
        rotary_base=2_000_000.0,
        written={"attention_bias": False, "mlp_bias": False, "use_sliding_window": False},
    ),
}

OTHER_MODELS = {
    "olmo2": "norms behind attention and MLP, and norms of queries and keys over all heads together",
    "olmo3": "norms behind attention and MLP, and sliding windows",
    "gemma2": "norms on both sides of attention and MLP, soft-capped logits and sliding windows",
    "gemma3_text": "norms on both sides of attention and MLP, and sliding windows",
    "glm4": "norms on both sides of attention and MLP",
    "exaone4": "norms behind attention and MLP",
    "granite": "multipliers of embeddings, attention and residuals",
    "cohere2": "attention and MLP side by side",
    "hunyuan_v1_dense": "norms of queries and keys behind the rotation",
    "apertus": "an MLP with xIELU instead of SwiGLU",
    "arcee": "an MLP with squared ReLU instead of SwiGLU",
}
"""`model_type` -> what such a model has that Megatron-Core 0.19's layers, or this converter's, do not."""

HARMLESS = frozenset(
    "architectures attention_dropout bos_token_id eos_token_id pad_token_id initializer_range transformers_version "
    "use_cache torch_dtype dtype auto_map _name_or_path name_or_path max_window_layers attn_implementation "
    "_attn_implementation _attn_implementation_autoset return_dict output_attentions output_hidden_states "
    "tokenizer_class model_type "
    # What published configs hold beside the model: other tokens, names and labels, how it was made or is served.
    "unk_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id "
    "_model_name_or_path _commit_hash is_llama_config transformers.js_config unsloth_version unsloth_fixed "
    "torchscript use_bfloat16 gradient_checkpointing use_flash_attn _flash_attn_2_enabled finetuning_task "
    "id2label label2id problem_type task_specific_params is_decoder chunk_size_feed_forward output_scores "
    "return_dict_in_generate tokenizer_model_max_length tokenizer_padding_side max_sequence_length model_max_length "
    "embd_pdrop resid_pdrop attn_pdrop hidden_dropout license language datasets tags "
    # Generation settings, which old versions of transformers kept here.
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p "
    "typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences remove_invalid_values exponential_decay_length_penalty suppress_tokens "
    "begin_suppress_tokens prefix".split()
)
"""Config fields that do not change the logits of a trained model."""


def _hidden(spec: ModelSpec) -> tuple[int, ...]:
    return (spec.hidden_size,)


def _head(spec: ModelSpec) -> tuple[int, ...]:
    return (spec.head_dim,)


def _queries_keys_values(spec: ModelSpec) -> tuple[int, ...]:
    keys = spec.num_query_groups * spec.head_dim
    return (spec.num_attention_heads * spec.head_dim, keys, keys)


def _vocabulary(spec: ModelSpec) -> tuple[int, ...]:
    return (spec.vocab_rows,)


def _nothing(spec: ModelSpec) -> tuple[int, ...]:
    return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of Megatron and the tensors of Hugging Face that it is made of.

    Attributes:
        megatron: name in the distributed checkpoint; of a layer's tensor, behind `decoder.layers.`.
        hf: names in the safetensors files; of a layer's tensors, behind `model.layers.N.`.
        rows: of each tensor of Hugging Face; Megatron's has all of them.
        width: the further dimensions of all of them.
        by_group: query, key and value, whose heads are put together group by group (`tensors.fuse_qkv`); other tensors
            follow one another.
        needs: whether a model has it.
    """

    megatron: str
    hf: tuple[str, ...]
    rows: Callable[[ModelSpec], tuple[int, ...]]
    width: Callable[[ModelSpec], tuple[int, ...]] = _nothing
    by_group: bool = False
    needs: Callable[[ModelSpec], bool] = lambda spec: True

    def shape(self, spec: ModelSpec) -> tuple[int, ...]:
        """Return the shape of Megatron's tensor (of one layer)."""
        return (sum(self.rows(spec)), *self.width(spec))


LAYER: tuple[TensorEntry, ...] = (
    TensorEntry(megatron="self_attention.linear_qkv.layer_norm_weight", hf=("input_layernorm.weight",), rows=_hidden),
    TensorEntry(
        megatron="self_attention.linear_qkv.weight",
        hf=("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        rows=_queries_keys_values,
        width=_hidden,
        by_group=True,
    ),
    TensorEntry(
        megatron="self_attention.linear_qkv.bias",
        hf=("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
        rows=_queries_keys_values,
        by_group=True,
        needs=lambda spec: spec.qkv_bias,
    ),
    TensorEntry(
        megatron="self_attention.q_layernorm.weight",
        hf=("self_attn.q_norm.weight",),
        rows=_head,
        needs=lambda spec: spec.qk_norm,
    ),
    TensorEntry(
        megatron="self_attention.k_layernorm.weight",
        hf=("self_attn.k_norm.weight",),
        rows=_head,
        needs=lambda spec: spec.qk_norm,
    ),
    TensorEntry(
        megatron="self_attention.linear_proj.weight",
        hf=("self_attn.o_proj.weight",),
        rows=_hidden,
        width=lambda spec: (spec.num_attention_heads * spec.head_dim,),
    ),
    TensorEntry(megatron="mlp.linear_fc1.layer_norm_weight", hf=("post_attention_layernorm.weight",), rows=_hidden),
    TensorEntry(
        megatron="mlp.linear_fc1.weight",
        hf=("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        rows=lambda spec: (spec.ffn_hidden_size,) * 2,
        width=_hidden,
    ),
    TensorEntry(
        megatron="mlp.linear_fc2.weight",
        hf=("mlp.down_proj.weight",),
        rows=_hidden,
        width=lambda spec: (spec.ffn_hidden_size,),
    ),
)

EMBEDDING = TensorEntry(
    megatron="embedding.word_embeddings.weight", hf=("model.embed_tokens.weight",), rows=_vocabulary, width=_hidden
)
FINAL_NORM = TensorEntry(megatron="decoder.final_layernorm.weight", hf=("model.norm.weight",), rows=_hidden)
HEAD = TensorEntry(
    megatron="output_layer.weight",
    hf=("lm_head.weight",),
    rows=_vocabulary,
    width=_hidden,
    needs=lambda spec: not spec.tied,
)
TOP: tuple[TensorEntry, ...] = (EMBEDDING, FINAL_NORM, HEAD)

ALIASES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Megatron's name -> the name of the same tensor in layers whose norms are modules of their own."""

EXTRA_STATES = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
"""Linear layers, for each of which Megatron's loader demands an `_extra_state` (empty but for FP8)."""
NORM_EXTRA_STATES = ("self_attention.q_layernorm", "self_attention.k_layernorm")
"""Norms of a layer for which it does so with Transformer Engine, if the model has them."""
FINAL_EXTRA_STATE = "decoder.final_layernorm"
"""The module outside the layers for which it does so with Transformer Engine."""

IGNORED_HF = ("rotary_emb.inv_freq",)
"""Tensors that old exports of transformers hold and that are computed from the config."""


def layer_entries(spec: ModelSpec) -> tuple[TensorEntry, ...]:
    """Return the tensors of one layer of a model."""
    return tuple(entry for entry in LAYER if entry.needs(spec))


def top_entries(spec: ModelSpec) -> tuple[TensorEntry, ...]:
    """Return the tensors of a model that belong to no layer."""
    return tuple(entry for entry in TOP if entry.needs(spec))


def hf_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a Hugging Face checkpoint of this model holds."""
    shapes = {entry.hf[0]: entry.shape(spec) for entry in top_entries(spec)}
    for layer in range(spec.num_layers):
        for entry in layer_entries(spec):
            for name, rows in zip(entry.hf, entry.rows(spec), strict=True):
                shapes[f"model.layers.{layer}.{name}"] = (rows, *entry.width(spec))
    return shapes
