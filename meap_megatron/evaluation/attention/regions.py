"""Suite `regions`: which part of a text its end attends to, MEAP against NTP (Figure 6, Tables 16 to 18).

The four texts of the paper are anecdotes, so that at least 200 templated items with a paired test are beside them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from meap_megatron.errors import UserError
from meap_megatron.evaluation.attention.model_pair import ComparedModel, baseline_folder, fingerprints, open_arms
from meap_megatron.evaluation.attention.paired import change
from meap_megatron.evaluation.attention.region_items import PAPER_ITEMS, PAPER_SHARES, REGIONS, Item, templated_items
from meap_megatron.evaluation.attention.region_shares import VARIANTS, encode, query_sets, shares
from meap_megatron.evaluation.response_cache import Ledger, request_key, responses_file
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.suites import Outcome, Request, Suite

VERSION = 1
ITEMS = 200
TASKS = ("regions_paper", "regions_templated")


def settings(request: Request, suite: Suite) -> dict[str, Any]:
    """Return what the numbers depend on beside the model.

    Raises:
        UserError: there is no baseline.
    """
    return {
        "baseline": fingerprints(baseline_folder(request)),
        "limit": request.limit or ITEMS,
        "eos_token": request.eos_token,
        "seed": request.seed,
    }


def run(request: Request, session: Session, name: str, chosen: Mapping[str, Any]) -> Outcome:
    """Run the analysis.

    Returns:
        One record for every text, and what goes into the results document.

    Raises:
        UserError: a model or an option cannot be used.
    """
    arms = open_arms(request, session)
    ends = {arm.name: eos_id(arm, chosen["eos_token"]) for arm in arms}
    items = {TASKS[0]: list(PAPER_ITEMS), TASKS[1]: templated_items(chosen["limit"], seed=request.seed)}
    records = []
    with closing(Ledger(responses_file(request, name), identity={**session.identity(), "settings": chosen})) as ledger:
        for task, texts in items.items():
            for number, item in enumerate(texts):
                key = request_key(name, item.joined())
                if key not in ledger.answers:
                    ledger.record(key, {arm.name: measure(item, arm, eos_id=ends[arm.name]) for arm in arms})
                records.append(_record(task, number, item, ledger.answers[key]))
    analysis = {task: _analysis([record["shares"] for record in records if record["task"] == task]) for task in TASKS}
    templated = analysis[TASKS[1]]["sum"]
    return records, {
        "tasks": [{"task": task, "version": VERSION, "metrics": {}} for task in TASKS],
        "requests": ledger.requests(),
        "cells": [cell for task in TASKS for cell in _cells(task, records)],
        "headline": {
            "metric": "answer_gain",
            "templated": {
                region: {
                    "ntp": found["before"],
                    "meap": found["after"],
                    "difference": found["difference"],
                    "t": (found["tests"]["paired_t"] or {}).get("statistic"),
                    "p": (found["tests"]["paired_t"] or {}).get("p"),
                }
                for region, found in templated.items()
            },
            "paper_texts": {
                record["name"]: {arm: record["shares"][arm]["sum"] for arm in ("meap", "ntp")}
                for record in records
                if record["task"] == TASKS[0]
            },
        },
        "regions": list(REGIONS),
        "analysis": analysis,
        "paper": PAPER_SHARES,
        "baseline": arms[1].info,
        "ends": {arm.name: arm.tokenizer.convert_ids_to_tokens(ends[arm.name]) for arm in arms},
    }


def eos_id(arm: ComparedModel, text: str | None) -> int:
    """Return the id of the token that ends the texts.

    Raises:
        UserError: the tokenizer has no EOS, or not the token that was asked for.
    """
    if text is None:
        if arm.tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {arm.folder} has no EOS token", fix="name another with --eos-token")
        return int(arm.tokenizer.eos_token_id)
    if text not in arm.tokenizer.get_vocab():
        raise UserError(
            f"--eos-token {text!r} is not a token of {arm.folder}", fix=f"take its own, {arm.tokenizer.eos_token!r}"
        )
    return int(arm.tokenizer.convert_tokens_to_ids(text))


def measure(item: Item, arm: ComparedModel, *, eos_id: int) -> dict[str, list[float]]:
    """Return variant -> shares of the regions of one text."""
    import torch

    from meap_megatron.evaluation.attention.observe import observe

    bos_id = arm.tokenizer.bos_token_id if arm.add_bos else None
    ids, regions = encode(item, arm.tokenizer, bos_id=bos_id, eos_id=eos_id)
    if arm.limit is not None and len(ids) > arm.limit:
        raise UserError(f"item {item.name} has {len(ids)} tokens, {arm.folder} takes {arm.limit}")
    received = observe(arm.model, torch.from_numpy(ids)[None], queries=torch.from_numpy(query_sets(regions)))
    return shares(received[0].numpy(), regions)


def _record(task: str, number: int, item: Item, answer: dict[str, Any]) -> dict[str, Any]:
    answer_region = REGIONS.index("answer")
    shown = {arm: answer[arm]["sum"][answer_region] for arm in ("meap", "ntp")}
    return {
        "task": task,
        "doc_id": number,
        "name": item.name,
        "prompt_sha256": hashlib.sha256(item.joined()[0].encode()).hexdigest(),
        "shares": answer,
        "metrics": {
            "meap_answer": shown["meap"],
            "ntp_answer": shown["ntp"],
            "answer_gain": shown["meap"] - shown["ntp"],
        },
    }


def _analysis(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return variant -> region -> `paired.change` from NTP to MEAP."""
    analysis: dict[str, Any] = {}
    for variant in VARIANTS:
        ntp, meap = (np.array([one[arm][variant] for one in found]) for arm in ("ntp", "meap"))
        analysis[variant] = {region: change(ntp[:, i], meap[:, i]) for i, region in enumerate(REGIONS)}
    return analysis


def _cells(task: str, records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a cell for every text of the paper and for the mean of the templated items, arm and region."""
    own = [record for record in records if record["task"] == task]
    groups = [[record] for record in own] if task == TASKS[0] else [own]
    for group in groups:
        name = group[0]["name"] if task == TASKS[0] else "templated"
        for arm in ("ntp", "meap"):
            means = np.mean([record["shares"][arm]["sum"] for record in group], axis=0)
            for region, mean in zip(REGIONS, means.tolist(), strict=True):
                yield {"text": name, "arm": arm, "region": region, "n": len(group), "unfit": 0, "mean": mean}
