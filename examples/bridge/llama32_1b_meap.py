"""Llama 3.2 1B with masked inputs in Megatron-Bridge 0.6: Bridge's own recipe, with the data and masks of this project.

    torchrun --nproc-per-node=8 examples/bridge/llama32_1b_meap.py data/c4 --mask-ratio 0.15

The data is that of `meap preprocess text` with Llama 3's tokenizer. Never run: Bridge needs Transformer Engine and a GPU.
"""

import argparse
from typing import Any

from megatron.bridge.recipes.llama.h100.llama3 import llama32_1b_pretrain_1gpu_h100_bf16_config

from meap_megatron.bridge import MEAPDataset
from meap_megatron.indexed.sidecar import check_prefix


def recipe(prefixes: list[str], *, mask_ratio: float | str = 0.15, corruption: str = "mask") -> Any:
    """Return Bridge's configuration with masked inputs and a row of the embedding for [MASK].

    Args:
        prefixes: datasets without .bin or .idx.
        mask_ratio: as `meap_mask_ratio` (docs/masked_inputs.md).
        corruption: as `meap_corruption`.
    """
    config = llama32_1b_pretrain_1gpu_h100_bf16_config()
    config.dataset = MEAPDataset(
        prefixes=prefixes, seq_length=config.model.seq_length, mask_ratio=mask_ratio, corruption=corruption
    )
    # Training does not tokenize: the placeholder tokenizer and the model take the size of the data's vocabulary.
    config.tokenizer.vocab_size = config.model.vocab_size = check_prefix(prefixes[0]).tokenizer.vocab_size
    return config


def main() -> None:
    """Train."""
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="+", help="datasets of meap preprocess text")
    parser.add_argument("--mask-ratio", default="0.15")
    parser.add_argument("--corruption", default="mask")
    args = parser.parse_args()
    pretrain(recipe(args.prefix, mask_ratio=args.mask_ratio, corruption=args.corruption), forward_step)


if __name__ == "__main__":
    main()
