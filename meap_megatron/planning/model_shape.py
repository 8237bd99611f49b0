"""The shape of a decoder-only model, and what follows from it alone: parameters and floating-point operations.

Letters as in Korthikanti et al. 2022 (arXiv:2205.05198), table 1: s sequence, b micro-batch, h hidden, a heads, L
layers, V rows of the vocabulary, t tensor parallel; besides, f the width of the feed-forward layer and g key-value
groups.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A layer that carries a state from position to position: Mamba-2, or a gated delta net."""

    inputs: int
    """Width of its input projection."""
    inner: int
    """Width of what its output projection takes."""
    convolved: int
    """Channels of its convolution."""
    split: int
    """Parameters beside the projections that tensor parallel splits."""
    replicated: int
    """Those that every tensor-parallel rank holds, the norm before the layer left out."""
    scan_flop: float
    """FLOP per token of convolution and recurrence, forward, as Megatron 0.19 counts them."""

    @classmethod
    def mamba(cls, *, heads: int, head_size: int, groups: int, state: int) -> "Recurrent":
        """Return a Mamba-2 layer; its convolution of width 4 has biases, its norm gains, each head A, D and dt's."""
        inner = heads * head_size
        convolved = inner + 2 * groups * state
        return cls(
            inputs=inner + convolved + heads,
            inner=inner,
            convolved=convolved,
            split=5 * convolved + inner + 3 * heads,
            replicated=0,
            scan_flop=7 * inner * state,
        )

    @classmethod
    def delta_net(cls, *, key_heads: int, key_size: int, value_heads: int, value_size: int, width: int) -> "Recurrent":
        """Return a gated delta net; its convolution has no bias, its norm one gain for each channel of a head."""
        keys, values = key_heads * key_size, value_heads * value_size
        convolved = 2 * keys + values
        return cls(
            inputs=2 * keys + 2 * values + 2 * value_heads,
            inner=values,
            convolved=convolved,
            split=width * convolved + 2 * value_heads,
            replicated=value_size,
            scan_flop=2 * (width * convolved + 4 * value_heads * value_size**2),
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The numbers of a model, and its choices."""

    num_layers: int
    """Blocks of an attention and a feed-forward layer; with a pattern, its repeated part."""
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    vocabulary: int
    """Rows of the embedding, padded."""
    gated: bool = True
    """SwiGLU: two input projections in the feed-forward layer."""
    tied: bool = False
    """One table for embedding and output."""
    qkv_bias: bool = False
    qk_norm: bool = False
    """A norm over each query head and one over each key head."""
    linear_bias: bool = False
    """A bias on every linear layer of a block (GPT-3)."""
    layer_norm: bool = False
    """LayerNorm has a gain and a bias, RMSNorm a gain."""
    learned_positions: int = 0
    """Rows of a learned position embedding; 0 with rotary positions."""
    unfused_attention: bool = False
    """Scores in memory, as before FlashAttention: only for measurements of 2021 and 2022."""
    unfused_loss: bool = False
    """Cross-entropy in eight passes over the logits, as Megatron has it without `cross_entropy_loss_fusion`."""
    attentions: int = 1
    """Attention layers in one of `num_layers`; more or fewer than `feed_forwards` in hybrid models only."""
    feed_forwards: int = 1
    recurrents: tuple[Recurrent, ...] = ()

    @property
    def sublayers(self) -> int:
        """Attention, feed-forward and recurrent layers in one of `num_layers`, each behind a norm and before a sum."""
        return self.attentions + self.feed_forwards + len(self.recurrents)

    @property
    def query_size(self) -> int:
        """Heads x channels."""
        return self.num_attention_heads * self.kv_channels

    @property
    def key_value_size(self) -> int:
        """Groups x channels, of the keys alone."""
        return self.num_query_groups * self.kv_channels

    @property
    def ffn_inputs(self) -> int:
        """Width of what the first linear layer of the feed-forward part gives: f, or 2 f with a gate."""
        return self.ffn_hidden_size * (2 if self.gated else 1)

    @property
    def layer_matrices(self) -> int:
        """Entries of the weight matrices of one layer, which tensor parallel splits."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)
        recurrent = self.hidden_size * sum(one.inputs + one.inner for one in self.recurrents)
        return self.attentions * attention + self.feed_forward_matrices + recurrent

    @property
    def feed_forward_matrices(self) -> int:
        """Those of `layer_matrices` that are of the feed-forward part."""
        return self.feed_forwards * self.hidden_size * (self.ffn_inputs + self.ffn_hidden_size)

    @property
    def layer_split_biases(self) -> int:
        """What tensor parallel splits of one layer beside matrices: biases of column-parallel, parts of recurrent layers."""
        qkv = self.query_size + 2 * self.key_value_size
        attention = self.attentions * qkv if self.qkv_bias or self.linear_bias else 0
        feed_forward = self.feed_forwards * self.ffn_inputs if self.linear_bias else 0
        return attention + feed_forward + sum(one.split for one in self.recurrents)

    @property
    def layer_replicated(self) -> int:
        """Parameters of one layer that every tensor-parallel rank holds: norms, and biases of row-parallel layers."""
        of_heads = 2 * self.kv_channels * (2 if self.layer_norm else 1) if self.qk_norm else 0
        biases = (self.attentions + self.feed_forwards) * self.hidden_size if self.linear_bias else 0
        recurrent = sum(one.replicated for one in self.recurrents)
        return self.sublayers * self.norm + biases + self.attentions * of_heads + recurrent

    @property
    def norm(self) -> int:
        """Parameters of one norm."""
        return self.hidden_size * (2 if self.layer_norm else 1)

    @property
    def table(self) -> int:
        """Entries of the embedding, and of the output layer."""
        return self.vocabulary * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters, each counted once.

        Given L 2, h 8, f 16, 2 heads x 4, 1 group, V 10, SwiGLU, RMSNorm, two tables
        then a layer has 8 x (16 + 8) + 8 x (32 + 16) + 2 x 8 = 592, all 2 x 592 + 8 + 2 x 80 = 1352.
        """
        layer = self.layer_matrices + self.layer_split_biases + self.layer_replicated
        tables = self.table * (1 if self.tied else 2) + self.learned_positions * self.hidden_size
        return self.num_layers * layer + self.norm + tables

    def flop_per_token(self, seq_length: int) -> float:
        """Return the FLOP of forward and backward pass per token, without recomputation, as Megatron 0.19 counts them.

        Two per multiply-add, three passes (forward, gradient of inputs, gradient of weights), causal attention
        counted as half of the square. Source: `num_floating_point_operations` in megatron/training/training.py;
        Narayanan et al. 2021, appendix, and Korthikanti et al. 2022, appendix A, count the whole square.
        """
        attention = self.num_layers * self.attentions * self.query_size * seq_length
        scans = 3.0 * self.num_layers * sum(one.scan_flop for one in self.recurrents)
        return 6.0 * (self.num_layers * self.layer_matrices + self.table + attention) + scans
