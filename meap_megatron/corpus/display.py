"""Text for a terminal: the summary of a dataset, and one sample as columns. Pure functions from data to lines."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """One position of a sample."""

    position: int
    token: str  # text of the unmasked input
    token_id: int  # id that the model reads
    read: str  # its text
    label: str
    label_id: int
    masked: bool
    loss: float
    edge: bool  # BOS or EOS in the unmasked input


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


def rows(
    *,
    inputs: Sequence[int],
    unmasked: Sequence[int],
    changed: Sequence[bool],
    labels: Sequence[int],
    loss: Sequence[float],
    edges: set[int],
    mask: tuple[int, str],
    text_of: Callable[[int], str],
) -> list[Position]:
    """Pair the fields of a sample.

    Args:
        inputs: ids that the model reads.
        unmasked: the same before masking.
        changed: which inputs are not the unmasked ones; a drawn token may be the same.
        labels: ids to predict.
        loss: weight of each label.
        edges: ids of BOS and EOS.
        mask: id and text of [MASK].
        text_of: id to text.
    """
    return [
        Position(
            position=position,
            token=visible(text_of(before)),
            token_id=after,
            read=mask[1] if after == mask[0] else visible(text_of(after)),
            label=visible(text_of(label)),
            label_id=label,
            masked=is_changed,
            loss=weight,
            edge=before in edges,
        )
        for position, (after, before, is_changed, label, weight) in enumerate(
            zip(inputs, unmasked, changed, labels, loss, strict=True)
        )
    ]


def table(lines: Sequence[Position], *, colour: bool) -> Iterator[str]:
    """Give the header and a line per row; a changed input shows what is read and the text that it hides."""
    yield "  ".join(fit(name, width) for name, width in zip(COLUMNS, WIDTHS, strict=True)).rstrip()
    for row in lines:
        token = f"{row.read} ({row.token})" if row.masked else row.token
        label = f"{row.label_id:>7} {row.label}"
        cells = (
            f"{row.position:>8}",
            token,
            f"{row.token_id:>7}",
            label,
            "masked" if row.masked else ".",
            f"{row.loss:g}",
        )
        fitted = [fit(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
        if colour:
            fitted[0] = QUIET + fitted[0] + OFF
            if row.masked:
                fitted[1] = MASKED + fitted[1] + OFF
                fitted[4] = MASKED + fitted[4] + OFF
            elif row.edge:
                fitted[1] = EDGE + fitted[1] + OFF
            if not row.loss:
                fitted[3] = QUIET + fitted[3] + OFF
        yield "  ".join(fitted).rstrip()
