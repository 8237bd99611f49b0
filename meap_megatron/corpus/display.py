"""Text for a terminal: the summary of a dataset, and one sample as columns. Pure functions from data to lines."""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.sft.display import sft_summary
from meap_megatron.corpus.terminal import BAR, EDGE, MASKED, OFF, QUIET, fit, visible
from meap_megatron.corpus.upsample.selection import report_lines
from meap_megatron.errors import counted
from meap_megatron.indexed.pair import BLOCK, open_pair
from meap_megatron.indexed.sidecar import Sidecar

_BODY = {"text": "text", "sft": "conversation"}
COLUMNS = ("position", "input", "     id", "  label", "masked", "loss")
WIDTHS = (8, 22, 7, 30, 6, 4)


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """The positions of one sample as training reads it; of fine-tuning data without the padding at its end."""

    tokens: list[int]
    """Ids that the model reads."""
    unmasked: list[int]
    """The same before masking."""
    labels: list[int]
    """Ids to predict."""
    changed: list[bool]
    """Whether the input was masked or replaced; a drawn token may be the one it replaces."""
    trained: list[bool]
    """Whether the label has a loss."""
    segments: dict[int, str] = field(default_factory=dict)
    """Of fine-tuning data: first position of each segment, and what it is."""


def summary(prefix: str | Path, sidecar: Sidecar) -> Iterator[str]:
    """Give the lines of the summary: what the sidecar says, and a histogram of the document lengths."""
    info = sidecar.tokenizer
    edges = " + ".join(["BOS"] * sidecar.add_bos + [_BODY[sidecar.kind]] + ["EOS"] * sidecar.add_eos)
    made_with = ", ".join(f"{name} {version}" for name, version in sidecar.libraries.items()) or "another tool"
    special = ", ".join(
        f"{name} {'none' if value is None else value}"
        for name, value in (("BOS", info.bos_id), ("EOS", info.eos_id), ("padding", info.pad_id))
    )
    yield f"{prefix}"
    yield (
        f"  {counted(sidecar.num_documents, 'document')}, {counted(sidecar.num_tokens, 'token')}, "
        f"{sidecar.bin_bytes:,} bytes as {sidecar.dtype}"
    )
    yield f"  a document is {edges}"
    yield f"  tokenizer {info.fingerprint[:12]} in {info.folder or 'no folder'}, vocabulary {info.vocab_size:,}"
    yield f"  {special}, {info.mask_token} {info.mask_id}"
    yield f"  content {sidecar.content_hash[:12]}, made with {made_with}"
    if sidecar.sft is not None:
        yield from sft_summary(sidecar.sft)
    if sidecar.upsample is not None:
        options = sidecar.upsample["options"]
        yield f"  upsampled by length, for {options['total_tokens']:,} tokens with seed {options['seed']}"
        yield from report_lines(sidecar.upsample)
    lengths = open_pair(prefix).lengths
    if len(lengths):
        yield ""
        yield from histogram(lengths)


def histogram(lengths: NDArray[np.int32]) -> Iterator[str]:
    """Give a line per power of two: how many documents have that many tokens, and what share of the tokens they hold.

    Args:
        lengths: int32[n], tokens per document; may be a memory map.
    """
    counts, tokens = np.zeros(32, dtype=np.int64), np.zeros(32, dtype=np.int64)
    for start in range(0, len(lengths), BLOCK):
        block = np.asarray(lengths[start : start + BLOCK], dtype=np.int64)
        # frexp: the exponent e with 2^(e-1) <= length < 2^e.
        exponents = np.frexp(block.astype(np.float64))[1]
        counts += np.bincount(exponents, minlength=32)[:32]
        tokens += np.bincount(exponents, weights=block, minlength=32)[:32].astype(np.int64)
    yield f"  {'tokens':>21}  {'documents':>12}  {'of tokens':>9}"
    used = np.flatnonzero(counts)
    for e in range(used[0], used[-1] + 1):
        span = f"{2 ** (e - 1):,} to {2**e - 1:,}" if e > 1 else str(e)
        bar = "#" * -(-int(counts[e]) * BAR // int(counts.max()))
        yield f"  {span:>21}  {counts[e]:>12,}  {tokens[e] / max(1, tokens.sum()):>9.1%}  {bar}".rstrip()


def text_of_ids(prefix: str | Path, sidecar: Sidecar) -> Callable[[int], str]:
    """Return a function from a token id to its text, "?" for all where the tokenizer's folder is not there."""
    path = Path(prefix).parent / (sidecar.tokenizer.folder or "") / "tokenizer.json"
    if sidecar.tokenizer.folder is None or not path.is_file():
        return lambda token_id: "?"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def text_of(token_id: int) -> str:
        piece: str = tokenizer.id_to_token(token_id) or "?"
        if piece.startswith("\u2581"):  # SentencePiece's space, which the decoder drops at the start
            return piece.replace("\u2581", " ")
        text: str = tokenizer.decode([token_id], skip_special_tokens=False)
        # A part of a character has no text of its own.
        return piece if not text or "\ufffd" in text else text

    return text_of


def table(
    sample: ShownSample,
    *,
    text_of: Callable[[int], str],
    mask: tuple[int, str],
    edges: Set[int] = frozenset(),
    start: int = 0,
    stop: int | None = None,
    colour: bool,
) -> Iterator[str]:
    """Give the header, a line for each position, and one before each segment.

    A changed input shows what is read and the text that it hides.

    Args:
        sample: its positions.
        text_of: id to text.
        mask: id and text of [MASK].
        edges: ids of BOS and EOS.
        start: first position.
        stop: position behind the last; None for all.
        colour: mark inputs by colour.
    """
    yield "  ".join(fit(name, width) for name, width in zip(COLUMNS, WIDTHS, strict=True)).rstrip()
    for position in range(len(sample.tokens))[start:stop]:
        if position in sample.segments:
            yield f"          -- {sample.segments[position]}"
        read, before, label = sample.tokens[position], sample.unmasked[position], sample.labels[position]
        is_changed, is_trained = sample.changed[position], sample.trained[position]
        token = visible(text_of(before))
        if is_changed:
            token = f"{mask[1] if read == mask[0] else visible(text_of(read))} ({token})"
        cells = (
            f"{position:>8}",
            token,
            f"{read:>7}",
            f"{label:>7} {visible(text_of(label))}",
            "masked" if is_changed else ".",
            "1" if is_trained else "0",
        )
        fitted = [fit(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
        if colour:
            fitted[0] = QUIET + fitted[0] + OFF
            if is_changed:
                fitted[1] = MASKED + fitted[1] + OFF
                fitted[4] = MASKED + fitted[4] + OFF
            elif before in edges:
                fitted[1] = EDGE + fitted[1] + OFF
            if not is_trained:
                fitted[3] = QUIET + fitted[3] + OFF
        yield "  ".join(fitted).rstrip()
