"""Score the checkpoints of an arm: export to Hugging Face, read the test rows, compare the token after each key.

Only the first round of questions counts: an answer of a later one can be copied from an earlier one.

Scored by teacher forcing: the answer counts if the most likely next token after a question's key, of all tokens, is the
value. Earlier questions of the row, right answers included, are in the context; no key is asked twice.
"""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.retrieval_small.arms import Run
from experiments.retrieval_small.data import identity, read_test_rows
from experiments.retrieval_small.plan import MEAP_RATIO, Plan
from experiments.retrieval_small.rows import Row, key_positions
from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError
from meap_megatron.tokenizer.train import BOS, EOS, MASK

BATCH = 64
MASK_SEED = 11


def score_arm(plan: Plan, run: Run, *, data: Path, stream: str) -> dict[str, Any]:
    """Score every checkpoint of a finished arm, write its scores, and keep its last checkpoint and export only.

    Args:
        plan: sizes.
        run: arm.
        data: folder of the data.
        stream: test rows, one of the plan's.

    Raises:
        RunError: a checkpoint is missing, or the export of the last one is not the model that was trained.
    """
    rows = read_test_rows(data, stream)
    ids = encode(rows, data / "rows.tokenizer", length=plan.seq_length)
    curve = []
    for step in range(plan.interval, plan.train_iters + 1, plan.interval):
        model, _ = load(run.save / f"iter_{step:07d}", run.folder / "export")
        answers = read_answers(model, ids, rows)
        tokens = step * plan.batch_size * plan.seq_length
        curve.append({"step": step, "tokens": tokens, "facts": by_facts(rows, ids, answers)})
    shutil.rmtree(run.folder / "export")
    verified = export_verified(run.save, run.folder / "hf")
    model, mask_id = load_folder(run.folder / "hf")
    masked = mask(ids, mask_id=mask_id)
    probes = {}
    for probe in plan.probes:
        asked = read_test_rows(data, probe.name)
        shown = encode(asked, data / "rows.tokenizer", length=probe.length)
        probes[probe.name] = by_facts(asked, shown, read_answers(model, shown, asked))[str(probe.facts)]
    scores = {
        "label": plan.label,
        "test_rows": stream,
        "ratio": run.ratio,
        "seed": run.seed,
        "data": identity(data),
        "curve": curve,
        "masked": by_facts(rows, ids, read_answers(model, masked, rows)),
        "by_place": by_place(rows, ids, read_answers(model, ids, rows), num_facts=plan.facts[-1]),
        "probes": probes,
        "training": training_record(run.save),
        "export": verified,
    }
    run.scores.parent.mkdir(parents=True, exist_ok=True)
    replace_text(run.scores, json.dumps(scores) + "\n")
    for folder in sorted(run.save.glob("iter_*"))[:-1]:
        shutil.rmtree(folder)
    return scores


def encode(rows: Sequence[Row], tokenizer: Path, *, length: int) -> NDArray[np.int64]:
    """Return the ids of the test rows as training sees rows: int64[rows, length], BOS and EOS included.

    Raises:
        RunError: a row has another length, or a question is not where it is expected.
    """
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    opened, closed = (loaded.encode(token, add_special_tokens=False).ids for token in (BOS, EOS))
    loaded.encode_special_tokens = True
    ids = []
    for row in rows:
        found = [*opened, *loaded.encode(row.text, add_special_tokens=False).ids, *closed]
        if len(found) != length:
            raise RunError(f"a test row has {len(found)} tokens, not {length}: {row.text[:80]}")
        for question, position in enumerate(key_positions(row, length=length)):
            pair = loaded.decode(found[position : position + 2]).split()
            if tuple(pair) != row.pairs[row.asked[question]]:
                raise RunError(f"a question of a test row reads {pair}, not {row.pairs[row.asked[question]]}")
        ids.append(found)
    return np.array(ids, dtype=np.int64)


def load(checkpoint: Path, folder: Path) -> tuple[Any, int]:
    """Export one checkpoint into a folder of its own, made anew, and load it; returns (model, id of [MASK]).

    Raises:
        RunError: there is no such checkpoint.
    """
    from meap_megatron.checkpoint.convert.exporting import ExportSettings, plan_export, write_export

    if not checkpoint.is_dir():
        raise RunError(f"{checkpoint} is missing; the arm cannot be scored: remove its folder and run it again")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_export(plan_export(ExportSettings(checkpoint=checkpoint)), folder)
    return load_folder(folder)


def load_folder(folder: Path) -> tuple[Any, int]:
    """Load an exported model, float32; returns (model, id of [MASK])."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    (mask_id,) = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(MASK, add_special_tokens=False).ids
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), mask_id


def export_verified(save: Path, folder: Path) -> str:
    """Export the last checkpoint with `meap convert export`, which compares the logits with Megatron's; return its line.

    Raises:
        RunError: the logits differ.
    """
    words = ["convert", "export", str(save), str(folder), "--overwrite"]
    command = [sys.executable, "-m", "meap_megatron.cli.main", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"meap convert export {save} ended with status {done.returncode}: {done.stderr.strip()}")
    return next((line for line in done.stdout.splitlines() if "logit" in line), "")


def read_answers(model: Any, ids: NDArray[np.int64], rows: Sequence[Row]) -> list[list[int]]:
    """Return, for every row and question, the most likely token after the key."""
    import torch

    length, answers = ids.shape[1], []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            hidden = model.model(torch.from_numpy(ids[start : start + BATCH])).last_hidden_state
            for row, states in zip(rows[start : start + BATCH], hidden, strict=True):
                answers.append(model.lm_head(states[key_positions(row, length=length)]).argmax(-1).tolist())
    return answers


def mask(ids: NDArray[np.int64], *, mask_id: int) -> NDArray[np.int64]:
    """Return the rows with 15 % of the inputs masked as in training: the same positions for every arm."""
    from meap_megatron.masking import mask_positions

    case = {"seed": MASK_SEED, "dataset_key": 0, "length": ids.shape[1], "ratio": MEAP_RATIO}
    masked = ids.copy()
    for sample_index, row in enumerate(masked):
        row[mask_positions(**case, sample_index=sample_index)] = mask_id
    return masked


def outcomes(row: Row, ids: NDArray[np.int64], answers: Sequence[int]) -> list[tuple[bool, bool]]:
    """Return, for every question, whether the answer is right, and whether it is any value of the row."""
    at = key_positions(row, length=len(ids))
    values = [int(ids[position + 1]) for position in at]
    return [(answer == value, answer in values) for answer, value in zip(answers, values, strict=True)]


def by_facts(rows: Sequence[Row], ids: NDArray[np.int64], answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return number of facts -> questions, share of right answers, share of answers that are any value of the row."""
    groups: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
    for row, row_ids, given in zip(rows, ids, answers, strict=True):
        groups[len(row.pairs)] += outcomes(row, row_ids, given)
    return {
        str(facts): {
            "questions": len(found),
            "accuracy": sum(right for right, _ in found) / len(found),
            "any_value": sum(value for _, value in found) / len(found),
        }
        for facts, found in sorted(groups.items())
    }


def by_place(
    rows: Sequence[Row], ids: NDArray[np.int64], answers: Sequence[Sequence[int]], *, num_facts: int
) -> list[float]:
    """Return the share of right answers by the place of the fact among those of the row, first to last."""
    right: list[list[bool]] = [[] for _ in range(num_facts)]
    for row, row_ids, given in zip(rows, ids, answers, strict=True):
        if len(row.pairs) == num_facts:
            first_round = row.asked[: len(row.pairs)]
            for fact, (correct, _) in zip(first_round, outcomes(row, row_ids, given), strict=True):
                right[fact].append(correct)
    return [sum(found) / len(found) for found in right]


def training_record(save: Path) -> dict[str, Any]:
    """Return what the run itself reports: masked share and clean validation loss."""
    from meap_megatron.training.metrics import read_metrics

    records = read_metrics(save / "metrics.jsonl")
    steps = [record for record in records if record["event"] == "step"]
    validations = [record["lm_loss"] for record in records if record["event"] == "validation"]
    shares = [record["mask_fraction"] or 0.0 for record in steps if "mask_fraction" in record]
    return {
        "steps": len(steps),
        "starts": sum(record["event"] == "start" for record in records),
        "mask_fraction": float(np.mean(shares)) if shares else 0.0,
        "validation_loss": validations[-1] if validations else None,
    }
