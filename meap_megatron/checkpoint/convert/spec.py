"""What a model is, in words that both sides share: the one object that is converted to and from every kind of config."""

import dataclasses
import math
from typing import Any

from meap_megatron.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """How rotary frequencies are changed for sequences longer than those of pre-training.

    Attributes:
        kind: "llama3" (original length 8,192, low 1, high 4), "linear" or "yarn".
        factor: by which the length grows.
        original: length of pre-training, in tokens; of YaRN, as all below.
        beta_fast: rotations within the original length above which a frequency is kept.
        beta_slow: rotations below which a frequency is divided by `factor`.
        attention: what cosine and sine are multiplied by.
        rounded: the bounds between kept and divided frequencies are rounded to whole dimensions.
    """

    kind: str
    factor: float
    original: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention: float = 1.0
    rounded: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A decoder of the Llama kind: RMSNorm, SwiGLU, rotary positions, no dropout, no biases but those of `qkv_bias`.

    Attributes:
        family: a key of `families.FAMILIES`.
        num_layers: transformer layers.
        hidden_size: width of the residual stream.
        ffn_hidden_size: width between the two projections of the MLP.
        num_attention_heads: query heads.
        num_query_groups: key-value heads; divides `num_attention_heads`.
        head_dim: width of one head; `num_attention_heads * head_dim` need not be `hidden_size`.
        vocab_rows: rows of the embedding and of the head, padding included.
        rotary_base: base of the rotary frequencies.
        scaling: of the rotary frequencies; None: they are those of the base.
        norm_epsilon: epsilon of every RMSNorm.
        max_positions: longest sequence the model is meant for, in tokens.
        tied: the head is the embedding.
        qkv_bias: query, key and value projections have a bias.
        qk_norm: an RMSNorm over each query head and each key head, before rotation.
        no_rope: layers, from 0, whose queries and keys are not rotated.
    """

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_rows: int
    rotary_base: int
    scaling: Scaling | None
    norm_epsilon: float
    max_positions: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool = False
    no_rope: tuple[int, ...] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "ModelSpec":
        """Return what `dataclasses.asdict` made a record of, or an earlier version of this package."""
        fields = dict(record)
        if "rope_factor" in fields:  # as written when llama3 was the only scaling
            factor = fields.pop("rope_factor")
            fields["scaling"] = None if factor is None else {"kind": "llama3", "factor": factor}
        scaling = fields["scaling"] and Scaling(**fields["scaling"])
        return cls(**fields | {"scaling": scaling, "no_rope": tuple(fields.get("no_rope", ()))})

    @property
    def num_parameters(self) -> int:
        """Weights and biases, a tied head counted once."""
        heads = (self.num_attention_heads + 2 * self.num_query_groups) * self.head_dim
        attention = heads * self.hidden_size + self.num_attention_heads * self.head_dim * self.hidden_size
        layer = attention + 3 * self.ffn_hidden_size * self.hidden_size + 2 * self.hidden_size
        layer += (heads if self.qkv_bias else 0) + (2 * self.head_dim if self.qk_norm else 0)
        tables = (1 if self.tied else 2) * self.vocab_rows * self.hidden_size
        return self.num_layers * layer + tables + self.hidden_size

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the rotary frequencies are made for."""
        scaled = int(self.scaling.factor * self.scaling.original) if self.scaling else 0
        return max(self.max_positions, scaled)

    def with_layers(self, layers: int) -> "ModelSpec":
        """Return the first layers of this model."""
        kept = tuple(layer for layer in self.no_rope if layer < layers)
        return dataclasses.replace(self, num_layers=layers, no_rope=kept)

    def with_rows(self, rows: int) -> "ModelSpec":
        """Return this model with another number of rows of the vocabulary."""
        return dataclasses.replace(self, vocab_rows=rows)


def differences(one: ModelSpec, other: ModelSpec, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Return "field: one's value, other's value" for every field in which two models differ."""
    return [
        f"{field.name}: {getattr(one, field.name)}, {getattr(other, field.name)}"
        for field in dataclasses.fields(ModelSpec)
        if field.name not in ignore and getattr(one, field.name) != getattr(other, field.name)
    ]


def padded_rows(size: int, *, multiple: int, tensor_parallel: int) -> int:
    """Return the least number of rows that holds `size` ids and is a multiple of both numbers.

    Megatron pads to a multiple of their product, so that one recipe would give another model on another layout.

    Given 128,257 ids, multiple 64, tensor parallel 8. Then 128,320 rows.
    """
    step = math.lcm(multiple, tensor_parallel)
    return -(-size // step) * step


def check_layout(spec: ModelSpec, *, tensor_parallel: int, pipeline_parallel: int) -> None:
    """Refuse a parallel layout that Megatron cannot build for this model."""
    heads, groups = spec.num_attention_heads, spec.num_query_groups

    def fits(ranks: int) -> bool:
        # Megatron shares a key-value head between ranks where there are more ranks than such heads.
        return heads % ranks == 0 and (groups % ranks == 0 or ranks % groups == 0)

    if not fits(tensor_parallel):
        allowed = ", ".join(str(n) for n in range(1, heads + 1) if fits(n))
        raise UserError(
            f"--tensor-model-parallel-size {tensor_parallel} does not divide the {heads} query heads and {groups} key-value "
            f"heads of this model",
            fix=f"use one of {allowed}",
        )
    if spec.ffn_hidden_size % tensor_parallel:
        raise UserError(
            f"--tensor-model-parallel-size {tensor_parallel} does not divide the feed-forward width {spec.ffn_hidden_size}"
        )
    if spec.num_layers % pipeline_parallel:
        raise UserError(
            f"--pipeline-model-parallel-size {pipeline_parallel} does not divide the {spec.num_layers} layers of this model"
        )
