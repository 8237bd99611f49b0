"""Suite `retrieval-heads`: which heads copy the needle's answer (Wu et al., 2024), in a model or in two.

A head copies a token of the answer if, where that token is generated, the position that it attends to most is in the answer
within the needle and holds the same token. The score of a head is the share of the answer's tokens that it copies. Two ways
of generating: `generated`, what the model says greedily, as published; `forced`, the answer itself, so that a model that
would say something else is asked the same.

Two models (`--baseline`) are read clean and with masked prompts, as in suite `attention`: needle and question stay clean.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.evaluation.attention.copied_tokens import MODES, analyse, head_scores
from meap_megatron.evaluation.attention.model_pair import (
    ComparedModel,
    asked_model,
    baseline_folder,
    fingerprints,
    open_arms,
    shorter_limit,
)
from meap_megatron.evaluation.attention.suite import check_arms, mask_ratio
from meap_megatron.evaluation.harness import check_lengths, task_metadata
from meap_megatron.evaluation.prompt_format import own_decoding
from meap_megatron.evaluation.prompt_length import with_offsets
from meap_megatron.evaluation.response_cache import Ledger, request_key, responses_file
from meap_megatron.evaluation.retrieval import metrics, needle
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.suites import SUITES, Outcome, Request, Suite
from meap_megatron.masking import mask_positions
from meap_megatron.tokenizer.load import MASK_TOKEN

VERSION = 1
LENGTHS = (1024, 4096)
DEPTHS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A prompt with a needle, as ids."""

    ids: NDArray[np.int64]
    """int64[P]."""
    answer: NDArray[np.int64]
    """int64[k]: positions of the answer within the needle."""
    maskable: NDArray[np.int64]
    """int64[n]: positions that may be masked: neither the first, nor of the needle, nor from the question on."""


def settings(request: Request, suite: Suite) -> dict[str, Any]:
    """Return what the numbers depend on beside the model."""
    return {
        "baseline": fingerprints(baseline_folder(request)) if request.baseline else None,
        "lengths": request.lengths or list(LENGTHS),
        "depths": request.depths or list(DEPTHS),
        **{name: getattr(request, name) for name in ("variants", "essays", "prompt", "limit", "seed")},
        "mask_ratio": mask_ratio(request),
    }


def run(request: Request, session: Session, name: str, chosen: Mapping[str, Any]) -> Outcome:
    """Run the analysis.

    Returns:
        One record for every prompt, and what goes into the results document.

    Raises:
        UserError: a model or a setting cannot be used.
    """
    suite = SUITES[name]
    check_lengths(request, session, suite)
    arms, mask_id, cells, notes = models(request, session)
    limit = shorter_limit(arms)  # type: ignore[arg-type]
    chat = session.asks_in_chat(suite)
    for arm in arms[1:]:
        own_decoding(arm.model, stop_ids=session.chat.stop_ids if chat else (), tokenizer=arm.tokenizer)
    given = task_metadata(request, session, suite) | {key: chosen[key] for key in ("lengths", "depths")}
    documents = [document for document in needle.build(**given)["test"] if document["depth"] >= 0]
    records, tables = [], []
    with closing(Ledger(responses_file(request, name), identity={**session.identity(), "settings": chosen})) as ledger:
        for number, document in enumerate(documents):
            fits = document["fits"] and (limit is None or document["length"] <= limit)
            place = {key: document[key] for key in ("length", "depth", "variant")}
            key = request_key(name, [document["prompt"]])
            prompt = hashlib.sha256(document["prompt"].encode()).hexdigest()
            record = {"task": name, "doc_id": number, **place, "prompt_sha256": prompt}
            if not fits:
                records.append({**record, "metrics": {"unfit": 1.0}})
                continue
            if key not in ledger.answers:
                sample = encode(document, arms[0], add_bos=arms[0].add_bos and not chat)
                hidden = masked(sample, mask_id=mask_id, ratio=chosen["mask_ratio"], seed=request.seed, index=number)
                inputs = {"clean": sample.ids, "masked": hidden}
                ledger.record(key, dict(_cells(arms, cells, sample, inputs, document["answer"])))
            found = ledger.answers[key]
            tables.append(found)
            said = {cell: {"answer": one["answer"], "recall": one["recall"]} for cell, one in found.items()}
            values = {f"{cell}_{mode}": float(np.mean(one[mode])) for cell, one in found.items() for mode in MODES} | {
                f"{cell}_recall": one["recall"] for cell, one in found.items()
            }
            records.append({**record, "said": said, "metrics": {**values, "unfit": 0.0}})
    analysis = analyse(tables) if tables else {}
    best = {
        f"{cell}_{mode}_best": one[mode]["best"] for cell, one in analysis.get("cells", {}).items() for mode in MODES
    }
    return records, {
        "tasks": [{"task": name, "version": VERSION, "metrics": best}],
        "requests": ledger.requests(),
        "cells": [
            {
                "arm": cell.split("_")[0],
                "input": cell.split("_")[1],
                "mode": mode,
                "n": len(tables),
                "unfit": len(records) - len(tables),
                "mean": one[mode]["best"],
                "retrieval_heads": one[mode]["retrieval_heads"],
            }
            for cell, one in analysis.get("cells", {}).items()
            for mode in MODES
        ],
        "headline": {
            "metric": "best",
            "by_cell": {
                cell: {"recall": one["recall"]}
                | {mode: {key: one[mode][key] for key in ("best", "mean", "retrieval_heads")} for mode in MODES}
                for cell, one in analysis.get("cells", {}).items()
            },
        },
        "analysis": analysis,
        **({"baseline": arms[1].info} if len(arms) > 1 else {}),
        "notes": notes,
    }


def models(request: Request, session: Session) -> tuple[tuple[ComparedModel, ...], int, tuple[str, ...], list[str]]:
    """Return the model, or the two; the id of [MASK]; which of model x input to run; and what a reader must know.

    Raises:
        UserError: a model cannot be used.
    """
    if request.baseline:
        arms = open_arms(request, session)
        info, cells, notes = check_arms(arms)
        return arms, info.mask_id, cells, notes
    from meap_megatron.evaluation.attention.observe import check_observable

    alone = asked_model(request, session, name="model")
    check_observable(alone.model, name=str(alone.folder))
    mask_id = alone.tokenizer.get_vocab().get(alone.tokenizer.mask_token or MASK_TOKEN)
    if mask_id is None or mask_id >= alone.model.get_input_embeddings().num_embeddings:
        return (alone,), 0, ("model_clean",), [f"the model knows no {MASK_TOKEN}: it was not run on masked input"]
    return (alone,), mask_id, ("model_clean", "model_masked"), []


def encode(document: Mapping[str, Any], arm: ComparedModel, *, add_bos: bool) -> Sample:
    """Return the ids of a prompt and where its needle, the answer in it and the question are.

    Raises:
        UserError: the tokenizer does not know the characters of its tokens.
    """
    prompt, hidden, answer = (document[key] for key in ("prompt", "needle", "answer"))
    encoded = with_offsets(arm.tokenizer, prompt, told="the needle is found")
    begins, ends = np.array(encoded["offset_mapping"], dtype=np.int64).T
    start = prompt.index(hidden)
    first = start + hidden.index(answer)
    question = prompt.rindex("Question:")

    def tokens_of(begin: int, end: int) -> NDArray[np.bool_]:
        return (begins < end) & (ends > begin)

    free = ~tokens_of(start, start + len(hidden)) & (begins < question)
    free[0] = False
    head = [arm.tokenizer.bos_token_id] if add_bos else []
    return Sample(
        ids=np.array([*head, *encoded["input_ids"]], dtype=np.int64),
        answer=np.flatnonzero(tokens_of(first, first + len(answer))) + len(head),
        maskable=np.flatnonzero(free) + len(head),
    )


def masked(sample: Sample, *, mask_id: int, ratio: float, seed: int, index: int) -> NDArray[np.int64]:
    """Return the ids with a share of the positions that may be masked replaced: the sampler of pre-training."""
    key = int.from_bytes(hashlib.sha256(sample.ids.astype("<i8").tobytes()).digest()[:8], "little")
    positions = mask_positions(
        seed=seed,
        dataset_key=key,
        sample_index=index,
        length=len(sample.ids),
        ratio=ratio,
        eligible=sample.maskable,
    )
    ids = sample.ids.copy()
    ids[positions] = mask_id
    return ids


def _cells(
    arms: Sequence[ComparedModel],
    cells: Sequence[str],
    sample: Sample,
    inputs: Mapping[str, NDArray[np.int64]],
    answer: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield cell -> what the model said, its recall of the answer, and the scores of all heads in both ways."""
    for cell in cells:
        arm, kind = cell.split("_")
        model = next(one for one in arms if one.name == arm)
        said = generate(model, inputs[kind])
        text = model.tokenizer.decode(said.tolist(), skip_special_tokens=True)
        given = {"generated": said, "forced": inputs[kind][sample.answer]}
        shown = {
            mode: head_scores(model.model, inputs[kind], ids, span=sample.answer).round(4).tolist()
            for mode, ids in given.items()
        }
        yield cell, {"answer": text, "recall": metrics.rouge1_recall(text, answer), **shown}


def generate(arm: ComparedModel, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what a model says after a prompt, greedily: int64[n], up to its end or to the end of the line."""
    import torch

    tokens = torch.from_numpy(ids)[None].to(arm.model.device)
    found = arm.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=needle.NEW_TOKENS,
        pad_token_id=arm.tokenizer.pad_token_id or 0,
    )
    said = found[0, len(ids) :].tolist()
    ends = set(np.atleast_1d(arm.model.generation_config.eos_token_id or []).tolist())
    for number, token in enumerate(said):
        before = arm.tokenizer.decode(said[:number]).strip()
        if token in ends or (before and "\n" in arm.tokenizer.decode([token])):
            return np.array(said[:number], dtype=np.int64)
    return np.array(said, dtype=np.int64)
