"""Megatron's layer patterns of hybrid models: one symbol per layer, `|` between the stages of a pipeline.

*-*-|*-*-    four blocks of a GPT on two stages: attention and feed-forward part are layers of their own
M-G-*-       a Mamba-2 and a gated delta net layer in the place of attention
"""

LAYERS = {
    "*": "attention",
    "-": "feed-forward",
    "M": "Mamba-2",
    "G": "gated delta net",
    "E": "mixture of experts",
    "+": "multi-latent attention",
    "D": "sparse attention",
}
"""Symbol -> what the layer is."""

RECURRENT = {symbol: LAYERS[symbol] for symbol in "MG"}
"""Layers that carry a state from position to position."""
MAMBA = {"mamba_state_dim": 128, "mamba_head_dim": 64, "mamba_num_groups": 8}
"""The sizes of a Mamba-2 layer and Megatron's defaults."""
DELTA_NET = (
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_conv_kernel_dim",
)
"""The sizes of a gated delta net."""

BLOCK = "*-"
"""One block of a GPT."""
CUT = "|"
PREDICTORS = "/"
"""What is before the layers of multi-token prediction."""


def layers_of(pattern: str) -> str:
    """Return the symbols of a pattern's layers, without cuts and without multi-token prediction."""
    return pattern.partition(PREDICTORS)[0].replace(CUT, "")


def segments_of(pattern: str) -> list[str]:
    """Return the layers of every pipeline segment; with several per stage, stage by stage and then the next round."""
    return pattern.partition(PREDICTORS)[0].split(CUT)


def blocks_of(pattern: str) -> int | None:
    """Return of how many GPT blocks a pattern consists: "*-*-|*-" is 3; None if it is anything else."""
    layers = layers_of(pattern)
    count = len(layers) // len(BLOCK)
    return count if count and layers == BLOCK * count and PREDICTORS not in pattern else None


def of_blocks(segments: list[int]) -> str:
    """Return the pattern of a GPT whose pipeline segments have so many blocks: [2, 1] is "*-*-|*-"."""
    return CUT.join(BLOCK * size for size in segments)


def period_of(layers: str) -> str:
    """Return the shortest part that layers repeat: "*--*--" repeats "*--", "**-" itself."""
    return layers[: (layers + layers).find(layers, 1)]
