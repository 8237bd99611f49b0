"""One training sample as training reads it: through the real MEAPGPTDataset, built by Megatron's builder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    from tokenizers import Tokenizer

    from meap_megatron.indexed.sidecar import read_sidecar
    from meap_megatron.launch import megatron_import, runtime

    runtime.set_thread_policy()
    megatron_import.quiet_imports()
    sidecar = read_sidecar(prefix)
    sample = load(plan, prefix=prefix, mask_id=sidecar.tokenizer.mask_id, index=index)
    assert sidecar.tokenizer.folder is not None, "the demo's own data have a tokenizer"
    tokenizer = Tokenizer.from_file(str(prefix.parent / sidecar.tokenizer.folder / "tokenizer.json"))

    def text_of(token_id: int) -> str:
        text: str = tokenizer.decode([token_id], skip_special_tokens=False)
        # A part of a character has no text of its own.
        return str(tokenizer.id_to_token(token_id)) if "\ufffd" in text else text

    tokens, labels = sample["tokens"].tolist(), sample["labels"].tolist()
    return cells(tokens, labels, mask_id=sidecar.tokenizer.mask_id, text_of=text_of)


def load(plan: DemoSizes, *, prefix: Path, mask_id: int, index: int) -> dict[str, Any]:
    """Return the tensors of one training sample."""
    from meap_megatron.config import MaskConfig
    from meap_megatron.indexed.sidecar import read_sidecar
    from meap_megatron.launch import megatron_import

    with megatron_import.triton_stub():
        from meap_megatron.datasets.gpt import MEAPGPTDatasetConfig
        from meap_megatron.datasets.provider import build_datasets
        from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer

    config = MEAPGPTDatasetConfig(
        random_seed=plan.seed,
        sequence_length=plan.seq_length,
        blend=([str(prefix)], None),
        split=plan.split,
        path_to_cache=str(prefix.resolve().parent / "cache" / "meap_megatron"),
        tokenizer=DatasetTokenizer(read_sidecar(prefix).tokenizer),
        create_attention_mask=False,
        meap=MaskConfig(mask_id=mask_id, ratio=MASK_RATIO, seed=plan.seed),
    )
    train, _, _ = build_datasets(config, sizes=[plan.train_iters * plan.batch_size, None, None])
    sample: dict[str, Any] = train[index]
    return sample


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
