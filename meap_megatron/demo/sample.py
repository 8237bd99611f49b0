"""One training sample as training reads it: through the real MEAPGPTDataset, built by Megatron's builder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meap_megatron.config import MaskConfig
from meap_megatron.demo.sizes import MASK_RATIO, DemoSizes


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One position of a sample."""

    text: str
    """Of the unmasked input token."""
    label: str
    """Text of the token to predict."""
    masked: bool


def read_sample(plan: DemoSizes, *, prefix: Path, index: int) -> list[Cell]:
    """Return training sample `index` of the MEAP arm.

    The arguments are those of the arm, so that Megatron's index cache, data order and masks are the arm's.
    Imports torch and Megatron.
    """
    from meap_megatron.corpus.display import text_of_ids
    from meap_megatron.indexed.sidecar import read_sidecar
    from meap_megatron.launch import megatron_import, runtime

    runtime.set_thread_policy()
    megatron_import.quiet_imports()
    with megatron_import.triton_stub():
        from meap_megatron.datasets.provider import build_datasets, config_of_samples

    sidecar = read_sidecar(prefix)
    mask_id = sidecar.tokenizer.mask_id
    config = config_of_samples(
        str(prefix),
        seq_length=plan.seq_length,
        seed=plan.seed,
        split=plan.split,
        cache=str(prefix.resolve().parent / "cache" / "meap_megatron"),
        masking=MaskConfig(mask_id=mask_id, ratio=MASK_RATIO, seed=plan.seed),
    )
    train, _, _ = build_datasets(config, sizes=[plan.train_iters * plan.batch_size, None, None])
    tokens, labels = (train[index][name].tolist() for name in ("tokens", "labels"))
    return cells(tokens, labels, mask_id=mask_id, text_of=text_of_ids(prefix, sidecar))


def cells(tokens: list[int], labels: list[int], *, mask_id: int, text_of: Callable[[int], str]) -> list[Cell]:
    """Pair inputs and labels; the text of a masked input is the label before it.

    Args:
        tokens: input ids, `mask_id` where masked.
        labels: ids to predict, one for each input.
        mask_id: id of [MASK].
        text_of: id to text.
    """
    result = []
    for position, (token, label) in enumerate(zip(tokens, labels, strict=True)):
        masked = token == mask_id
        unmasked = labels[position - 1] if masked and position else token
        result.append(Cell(text=text_of(unmasked), label=text_of(label), masked=masked))
    return result


def readable_window(sample: list[Cell], size: int) -> list[Cell]:
    """Return the `size` consecutive cells with the most words, so that a drawing shows text and not indentation."""
    starts = range(max(1, len(sample) - size + 1))
    return max((sample[start : start + size] for start in starts), key=num_words)


def num_words(sample: list[Cell]) -> int:
    """Return how many cells hold a letter."""
    return sum(any(letter.isalpha() for letter in cell.text) for cell in sample)


def as_record(sample: list[Cell]) -> list[dict[str, Any]]:
    """Return a sample as JSON values."""
    return [asdict(cell) for cell in sample]
