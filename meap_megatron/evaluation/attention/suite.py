"""Suite `attention`: Score Decay and Variance Increase of a MEAP model against an NTP model (Table 10).

Every sequence is read four times: clean and masked, by either model. The paper compares NTP on clean input with MEAP on
masked input, which changes two things at once; the other cells say how much of it is the model and how much the input.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.evaluation import bos
from meap_megatron.evaluation.attention import scores
from meap_megatron.evaluation.attention.model_pair import (
    ComparedModel,
    baseline_folder,
    fingerprints,
    open_arms,
    shorter_limit,
)
from meap_megatron.evaluation.attention.sequences import (
    Stream,
    choose_blocks,
    open_stream,
    positions_to_mask,
    source_of,
)
from meap_megatron.evaluation.response_cache import Ledger, request_key, responses_file
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.suites import Outcome, Request, Suite
from meap_megatron.indexed.sidecar import TokenizerInfo
from meap_megatron.tokenizer.load import MASK_TOKEN, load_tokenizer

VERSION = 1
LENGTHS = (1024, 4096)
SEQUENCES = 500
MASK_RATIO = 0.15


def settings(request: Request, suite: Suite) -> dict[str, Any]:
    """Return what the numbers depend on beside the model.

    Raises:
        UserError: there is no baseline or no text, or the ratio is no share.
    """
    return {
        "baseline": fingerprints(baseline_folder(request)),
        "text": source_of(text_of(request))["sha256"],
        "lengths": request.lengths or list(LENGTHS),
        "limit": request.limit or SEQUENCES,
        "mask_ratio": mask_ratio(request),
        "mask_first": request.mask_first,
        "seed": request.seed,
        "batch_size": request.fixed_batch,
    }


def mask_ratio(request: Request) -> float:
    """Return the share of the positions to mask.

    Raises:
        UserError: it is not a share.
    """
    ratio = MASK_RATIO if request.mask_ratio is None else request.mask_ratio
    if not 0 < ratio < 1:
        raise UserError(f"--mask-ratio must be between 0 and 1, found {ratio}; the paper's is {MASK_RATIO}")
    return float(ratio)


def text_of(request: Request) -> str:
    """Return where the sequences come from.

    Raises:
        UserError: nothing was given.
    """
    found = request.text or request.data
    if not found:
        raise UserError(
            "attention reads packed blocks of text, held-out pre-training text as in the paper",
            fix="give --text (or --data) the prefix of an indexed dataset, or a text file or folder",
        )
    return str(found)


def run(request: Request, session: Session, name: str, chosen: Mapping[str, Any]) -> Outcome:
    """Run the analysis.

    Returns:
        One record for every sequence and length, and what goes into the results document.

    Raises:
        UserError: models or data cannot be used.
    """
    check_lengths(chosen["lengths"])
    arms = open_arms(request, session)
    tokenizer, cells, notes = check_arms(arms)
    stream = open_stream(
        text_of(request), tokenizer=arms[0].tokenizer, add_bos=arms[0].add_bos, fingerprint=tokenizer.fingerprint
    )
    limit = shorter_limit(arms)
    asked = {length: limit is None or length <= limit for length in chosen["lengths"]}
    if request.lengths and not all(asked.values()):
        above = next(length for length, fits in asked.items() if not fits)
        raise UserError(
            f"length {above} is above the limit of {limit} tokens of the models (config.json)",
            fix="give --lengths up to it",
        )
    identity = {**session.identity(), "settings": chosen}
    records: list[dict[str, Any]] = []
    with closing(Ledger(responses_file(request, name), identity=identity)) as ledger:
        for length, fits in asked.items():
            if fits:
                records += _length(length, chosen, arms, stream, ledger, mask_id=tokenizer.mask_id, cells=cells)
            else:
                unfit = {"task": f"attention_{length}", "length": length, "metrics": {"unfit": 1.0}}
                records += [{**unfit, "doc_id": n, "prompt_sha256": ""} for n in range(chosen["limit"])]
    analysis = {
        str(length): scores.compare([record["attention"] for record in records if record["length"] == length])
        for length, fits in asked.items()
        if fits
    }
    return records, {
        "tasks": [_task(length, analysis.get(str(length))) for length in asked],
        "requests": ledger.requests(),
        "cells": [cell for length, fits in asked.items() if fits for cell in _cells(length, records, cells)],
        "headline": headline(analysis),
        "analysis": analysis,
        "paper": {str(length): dict(values) for length, values in scores.PAPER.items()},
        "baseline": arms[1].info,
        "data": {**stream.source, "path": text_of(request)},
        "notes": notes,
    }


def check_lengths(lengths: Sequence[int]) -> None:
    """Refuse lengths at which nothing can be masked.

    Raises:
        UserError: one is below 16.
    """
    if min(lengths) < 16:
        raise UserError(f"--lengths {min(lengths)}: attention needs sequences of at least 16 tokens")


def check_arms(arms: tuple[ComparedModel, ComparedModel]) -> tuple[TokenizerInfo, tuple[str, ...], list[str]]:
    """Return the tokenizer of both models, the cells that can be filled, and what a reader must know.

    Raises:
        UserError: the models do not share a tokenizer, or the MEAP model has no [MASK].
    """
    meap, ntp = arms
    mask_token = (bos.read_policy(meap.folder) or {}).get("mask_token") or MASK_TOKEN
    info, other = (load_tokenizer(arm.folder, mask_token=mask_token).info for arm in arms)
    if info.fingerprint != other.fingerprint:
        raise UserError(
            f"--model {meap.folder} has tokenizer {info.fingerprint:.12}, --baseline {ntp.folder} has "
            f"{other.fingerprint:.12}: the two must read the same tokens",
            fix="compare models of one tokenizer",
        )
    rows = {arm.name: arm.model.get_input_embeddings().num_embeddings for arm in arms}
    if mask_token not in meap.tokenizer.get_vocab() or rows["meap"] <= info.mask_id:
        raise UserError(
            f"--model {meap.folder} knows no {mask_token}: it cannot have been trained with MEAP",
            fix="put the tokenizer of the training data beside it, or exchange --model and --baseline",
        )
    cells: tuple[str, ...] = scores.CELLS
    notes = ["the row of [MASK] in the NTP model was never trained"]
    if rows["ntp"] <= info.mask_id:
        cells = tuple(cell for cell in cells if cell != "ntp_masked")
        notes = [f"the NTP model has {rows['ntp']:,} token rows and none for [MASK]: it was not run on masked input"]
    if meap.model.dtype != ntp.model.dtype:
        notes.append(f"precision differs: MEAP {meap.model.dtype}, NTP {ntp.model.dtype} (--dtype makes it equal)")
    return info, cells, notes


def _length(
    length: int,
    chosen: Mapping[str, Any],
    arms: tuple[ComparedModel, ComparedModel],
    stream: Stream,
    ledger: Ledger,
    *,
    mask_id: int,
    cells: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    """Yield the records of one length; a block of sequences whose numbers are known already is not run again."""
    blocks = choose_blocks(stream.num_blocks(length), count=chosen["limit"], length=length, seed=chosen["seed"])
    masks = positions_to_mask(
        blocks.tolist(),
        source_hash=stream.source["sha256"],
        length=length,
        ratio=chosen["mask_ratio"],
        seed=chosen["seed"],
        mask_first=chosen["mask_first"],
    )
    keys = [request_key("attention", [length, int(block)]) for block in blocks]
    missing = [number for number, key in enumerate(keys) if key not in ledger.answers]
    for start in range(0, len(missing), chosen["batch_size"]):
        group = missing[start : start + chosen["batch_size"]]
        tokens = np.stack([stream.block(int(blocks[number]), length=length) for number in group])
        found = measure(tokens, [masks[number] for number in group], arms=arms, mask_id=mask_id, cells=cells)
        for number, answer in zip(group, found, strict=True):
            ledger.record(keys[number], answer)
    for number, (block, positions) in enumerate(zip(blocks, masks, strict=True)):
        answer = ledger.answers[keys[number]]
        table = scores.compare([answer])["full"]["table_10"]
        metrics = {
            "sequence_decay": table["decay"]["decay"],
            "sequence_variance_increase": table["variance_increase"]["relative"],
        }
        yield {
            "task": f"attention_{length}",
            "doc_id": number,
            "length": length,
            "block": int(block),
            "num_masked": len(positions),
            "prompt_sha256": _prompt(stream.block(int(block), length=length), positions),
            "attention": answer,
            "metrics": {metric: value for metric, value in metrics.items() if value is not None},
        }


def _prompt(tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> str:
    return hashlib.sha256(tokens.astype("<i8").tobytes() + positions.astype("<i8").tobytes()).hexdigest()


def measure(
    tokens: NDArray[np.int64],
    masks: Sequence[NDArray[np.int64]],
    *,
    arms: tuple[ComparedModel, ComparedModel],
    mask_id: int,
    cells: tuple[str, ...] = scores.CELLS,
) -> list[dict[str, Any]]:
    """Return cell -> `sequence_scores` for each of a batch of sequences.

    Args:
        tokens: int64[batch, T], clean input.
        masks: the positions of each sequence to mask, int64[k].
        arms: the two models.
        mask_id: id of [MASK].
        cells: which of model x input to run.
    """
    import torch

    from meap_megatron.evaluation.attention.observe import observe

    covered = tokens.copy()
    for row, positions in zip(covered, masks, strict=True):
        row[positions] = mask_id
    inputs = {"clean": torch.from_numpy(tokens), "masked": torch.from_numpy(covered)}
    models = {arm.name: arm.model for arm in arms}
    queries = torch.from_numpy(scores.query_sets(tokens.shape[1]))
    found: list[dict[str, Any]] = [{} for _ in masks]
    for cell in cells:
        arm, kind = cell.split("_")
        received = observe(models[arm], inputs[kind], queries=queries).numpy()
        for row, (result, positions) in enumerate(zip(found, masks, strict=True)):
            result[cell] = scores.sequence_scores(received[row], masked=positions)
    return found


def _task(length: int, analysis: dict[str, Any] | None) -> dict[str, Any]:
    """Return the entry of one length: ratios of averages, as Table 10 prints them."""
    metrics = {}
    if analysis is not None:
        table = analysis["full"]["table_10"]
        metrics = {"decay": table["decay"]["decay"], "variance_increase": table["variance_increase"]["relative"]}
    return {
        "task": f"attention_{length}",
        "version": VERSION,
        "metrics": {metric: value for metric, value in metrics.items() if value is not None},
    }


def _cells(length: int, records: Sequence[dict[str, Any]], cells: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the 2 x 2 table of one length: mean attention to M and variance over U, score `full`."""
    own = [record["attention"] for record in records if record["length"] == length]
    for cell in cells:
        arm, kind = cell.split("_")
        yield {
            "length": length,
            "arm": arm,
            "input": kind,
            "n": len(own),
            "unfit": 0,
            "mean": float(np.mean([found[cell]["full"]["masked"] for found in own])),
            "variance": float(np.mean([found[cell]["full"]["variance"] for found in own])),
        }


def headline(analysis: dict[str, Any]) -> dict[str, Any]:
    """Return the values of Table 10, and how much of it is the model and how much the input; score `full`."""
    rows: dict[str, Any] = {}
    for length, found in analysis.items():
        rows[length] = {}
        for comparison in ("table_10", "model", "input"):
            decay, variance = (found["full"][comparison][kind] for kind in ("decay", "variance_increase"))
            rows[length][comparison] = {
                "decay": decay["decay"],
                "decay_t": (decay["tests"]["paired_t"] or {}).get("statistic"),
                "decay_p": (decay["tests"]["paired_t"] or {}).get("p"),
                "variance_increase": variance["relative"],
                "variance_difference": variance["difference"],
                "variance_t": (variance["tests"]["paired_t"] or {}).get("statistic"),
                "variance_p": (variance["tests"]["paired_t"] or {}).get("p"),
            }
    return {"metric": "decay", "by_length": rows}
