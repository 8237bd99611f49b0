"""Suite `text-loss`: what a model makes of plain text: bits per byte, loss by position, loss on what repeats.

Inputs are clean: nothing is masked. One forward pass for every window; no question is asked.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.shard import Advance
from meap_megatron.errors import UserError
from meap_megatron.evaluation.attention.sequences import read_texts, source_of
from meap_megatron.evaluation.response_cache import AnswerProgress, Ledger, responses_file
from meap_megatron.evaluation.retrieval.haystack import find_essays
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.suites import Outcome, Request, Suite
from meap_megatron.evaluation.text_windows import NGRAMS, Window, analyse, bin_edges, num_windows, sums, window
from meap_megatron.indexed.pair import open_pair
from meap_megatron.indexed.sidecar import check_prefix
from meap_megatron.tokenizer.byte_lengths import ByteLengths, byte_lengths
from meap_megatron.tokenizer.load import CorpusTokenizer, load_tokenizer
from meap_megatron.tokenizer.parsed import parsed

VERSION = 1
LENGTH = 2048
WINDOWS = 100
BLOCK = 512
"""Positions whose logits exist in float32 at one time."""


def settings(request: Request, suite: Suite) -> dict[str, Any]:
    """Return what the numbers depend on beside the model.

    Raises:
        UserError: there is no text, or more than one length.
    """
    if len(request.lengths or ()) > 1:
        raise UserError(f"--lengths {request.lengths}: text-loss reads windows of one length", fix="give one number")
    return {
        "text": source_of(text_of(request))["sha256"],
        "length": request.lengths[0] if request.lengths else None,
        "limit": request.limit or WINDOWS,
        "seed": request.seed,
        "batch_size": request.fixed_batch,
    }


def text_of(request: Request) -> str:
    """Return where the text comes from: --text, or the essays of the needle."""
    return str(request.text or find_essays(request.essays))


def run(request: Request, session: Session, name: str, chosen: Mapping[str, Any]) -> Outcome:
    """Run the analysis.

    Returns:
        One record for every window, and what goes into the results document.

    Raises:
        UserError: model, text or length cannot be used.
    """
    length = window_length(chosen["length"], session.limit)
    tokenizer = load_tokenizer(request.model)
    documents = read_documents(text_of(request), tokenizer)
    prefix = tokenizer.info.bos_id if session.policy.add_bos else tokenizer.info.eos_id
    sizes = byte_lengths(parsed(tokenizer.definition), special=tokenizer.special_ids)
    counts = num_windows(documents.lengths, length=length, prefix=prefix is not None)
    picked = pick(counts, limit=chosen["limit"], seed=request.seed)
    if not picked:
        raise UserError(f"{text_of(request)} has no token to predict", fix="give a longer text (--text)")
    windows = [
        window(documents.ids(document), index, length=length, prefix=prefix, sizes=sizes) for document, index in picked
    ]
    edges = bin_edges(length)
    with closing(Ledger(responses_file(request, name), identity={**session.identity(), "settings": chosen})) as ledger:
        measure(windows, session.lm.model, ledger, edges=edges, batch=chosen["batch_size"])
        answers = [ledger.answers[key_of(one)] for one in windows]
    analysis = analyse(answers, edges=edges, seed=request.seed)
    gains = {n: analysis["ngrams"][n]["copy_gain"] for n in map(str, NGRAMS)}
    records = [
        {
            "task": "text_loss",
            "doc_id": number,
            "document": document,
            "window": index,
            "prompt_sha256": key_of(one),
            "sums": answer,
            "metrics": window_metrics(answer),
        }
        for number, ((document, index), one, answer) in enumerate(zip(picked, windows, answers, strict=True))
    ]
    metrics = {"bits_per_byte": analysis["bits_per_byte"], "loss": analysis["loss"]}
    metrics |= {f"copy_gain_{n}": gain for n, gain in gains.items() if gain["mean"] is not None}
    return records, {
        "tasks": [{"task": "text_loss", "version": VERSION, "metrics": metrics}],
        "requests": ledger.requests(),
        "cells": [{"unfit": 0, **place} for place in analysis["positions"]],
        "headline": {
            "metric": "bits_per_byte",
            "percent": False,
            "lower_is_better": True,
            "bits_per_byte": analysis["bits_per_byte"]["mean"],
            "loss": analysis["loss"]["mean"],
            "copy_gain": {n: gain["mean"] for n, gain in gains.items()},
        },
        "analysis": analysis,
        "data": {
            **documents.source,
            "path": text_of(request),
            "documents": len(documents.lengths),
            "windows": int(counts.sum()),
            "window_length": length,
        },
        "notes": documents.notes(sizes),
    }


def window_length(asked: int | None, limit: int | None) -> int:
    """Return the predicted tokens of a window.

    Raises:
        UserError: the model does not take so many.
    """
    if asked is not None and limit is not None and asked > limit:
        raise UserError(
            f"--lengths {asked} is above the model's limit of {limit} tokens (config.json)",
            fix=f"take at most {limit}",
        )
    return asked or min(LENGTH, limit or LENGTH)


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Texts as ids, without BOS and EOS."""

    lengths: NDArray[np.int64]
    """int64[documents]: tokens of each."""
    ids: Callable[[int], NDArray[np.integer]]
    """Number of a document -> its ids, int[n]."""
    source: dict[str, Any]
    """Kind and content hash."""
    texts: tuple[str, ...] = ()
    """Where they came from, if that was text."""

    def notes(self, sizes: ByteLengths) -> list[str]:
        """Return what a reader must know: tokens that do not decode to the text they were made from."""
        size = sum(len(text.encode()) for text in self.texts)
        decoded = sum(int(sizes.count(self.ids(number), opens=True).sum()) for number in range(len(self.texts)))
        if size == decoded:
            return []
        return [
            f"the tokens decode to {decoded:,} bytes, and the text has {size:,}: this tokenizer changes what it reads, and "
            f"bits_per_byte is of what it keeps"
        ]


def read_documents(path: str, tokenizer: CorpusTokenizer) -> Documents:
    """Open text, or an indexed dataset made with the model's tokenizer.

    Raises:
        UserError: it cannot be read, or was made with another tokenizer.
    """
    source = source_of(path)
    if source["kind"] == "text":
        encoder = parsed(tokenizer.definition)
        # One after the other: the tokenizer lays a text out in memory at a hundred bytes a character.
        texts = read_texts(path)
        encoded = [np.array(encoder.encode(text, add_special_tokens=False).ids, dtype=np.int64) for text in texts]
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        return Documents(lengths=lengths, ids=encoded.__getitem__, source=source, texts=texts)
    sidecar, pair = check_prefix(path), open_pair(path)
    if sidecar.tokenizer.fingerprint != tokenizer.info.fingerprint:
        raise UserError(
            f"{path} was made with tokenizer {sidecar.tokenizer.fingerprint:.12}, the model has "
            f"{tokenizer.info.fingerprint:.12}: its ids mean other tokens",
            fix="give the text itself, or make the data again",
        )
    bounds = np.concatenate([[0], np.cumsum(pair.lengths, dtype=np.int64)])[pair.document_indices]
    begins, ends = bounds[:-1] + sidecar.add_bos, bounds[1:] - sidecar.add_eos
    return Documents(
        lengths=np.maximum(ends - begins, 0),
        ids=lambda number: np.asarray(pair.tokens[begins[number] : ends[number]]),
        source=source,
    )


def pick(counts: NDArray[np.int64], *, limit: int, seed: int) -> list[tuple[int, int]]:
    """Return (document, window) of at most `limit` windows, drawn without replacement, in their order.

    Args:
        counts: int64[documents], windows of each.
        limit: how many.
        seed: of the draw.
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.sort(np.random.default_rng(seed).choice(total, size=min(limit, total), replace=False))
    documents = np.searchsorted(ends, drawn, side="right")
    return list(zip(documents.tolist(), (drawn - ends[documents] + counts[documents]).tolist(), strict=True))


def key_of(one: Window) -> str:
    """Return the hash of a window's tokens."""
    return hashlib.sha256(one.tokens.astype("<i8").tobytes()).hexdigest()


def measure(windows: Sequence[Window], model: Any, ledger: Ledger, *, edges: NDArray[np.int64], batch: int) -> None:
    """Write the sums of every window that the ledger does not know.

    Raises:
        UserError: a loss is not finite.
    """
    missing = [one for one in windows if key_of(one) not in ledger.answers]
    # Windows of one length together, so that little is padded.
    missing.sort(key=lambda one: len(one.tokens))
    progress = AnswerProgress(len(missing))
    for start in range(0, len(missing), batch):
        group = missing[start : start + batch]
        for one, losses in zip(group, token_losses(model, [one.tokens for one in group]), strict=True):
            if not np.isfinite(losses).all():
                raise UserError("the model's loss is not finite; was it saved by a run that diverged?")
            ledger.record(key_of(one), sums(one, losses, edges=edges))
            progress.advance(Advance(input_bytes=1, text_bytes=0, num_documents=0))
    progress.finish()


def token_losses(model: Any, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    """Return float64[n]: nats of every token of each row of n + 1 tokens but the first, given those before it.

    Args:
        model: a causal transformers model.
        rows: int64[n + 1] each.
    """
    import torch
    from torch.nn.functional import cross_entropy

    inputs = torch.zeros(len(rows), max(map(len, rows)) - 1, dtype=torch.long)
    for number, row in enumerate(rows):
        inputs[number, : len(row) - 1] = torch.from_numpy(row[:-1])
    with torch.no_grad():
        # Padding is on the right, where no token that counts attends to it.
        logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
        found = []
        for number, row in enumerate(rows):
            targets = torch.from_numpy(row[1:]).to(logits.device)
            own = logits[number, : len(targets)]
            blocks = zip(own.split(BLOCK), targets.split(BLOCK), strict=True)
            losses = [cross_entropy(some.float(), wanted, reduction="none") for some, wanted in blocks]
            found.append(torch.cat(losses).double().cpu().numpy())
    return found


def window_metrics(answer: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of one window, for comparing two models window by window."""
    total, count = answer["all"]
    found = {}
    if count:
        found["window_loss"] = total / count
    if answer["bytes"]:
        found["window_bits_per_byte"] = total / math.log(2) / answer["bytes"]
    for n, kinds in answer["ngrams"].items():
        (first, firsts), (later, laters) = kinds["first"], kinds["repeated"]
        if firsts:
            found[f"window_copy_gain_{n}"] = first / firsts - later / laters
    return found
