"""BABILong (Kuratov et al., 2024): facts of bAbI among pages of books, asked as lm-evaluation-harness asks for them.

The data are read from a folder. Description, worked examples and score are the harness's own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import data_folder, read_records, subfolder
from meap_megatron.evaluation.prompt_length import load_measure
from meap_megatron.evaluation.retrieval import documents

NEW_TOKENS = 16
FIELDS = ("input", "question", "target")
WHERE = "huggingface.co/datasets/RMT-team/babilong-1k-samples or RMT-team/babilong"


def build(*, question: str, **metadata: Any) -> dict[str, Any]:
    """Make the samples of one task; the harness calls this with the task's and the run's settings.

    Args:
        question: `qa1` to `qa5`.
        metadata: `data` (folder that holds a folder `babilong`), `lengths` (each takes the longest published one that is
            not above it; default: all that are there), `samples` (of each length), and what names the model.

    Raises:
        UserError: data, tokenizer or a setting cannot be used.
    """
    files = published(data_folder(metadata.get("data")), question)
    wanted = documents.numbers(metadata.get("lengths", sorted(files)), name="lengths")
    lengths = sorted({max((there for there in files if there <= length), default=-1) for length in wanted} - {-1})
    if not lengths:
        raise UserError(
            f"BABILong {question}: lengths are {', '.join(map(str, sorted(files)))} tokens, found {wanted}"
        )
    samples = documents.count(metadata.get("samples"), name="samples")
    measure = load_measure(metadata)
    frame = examples(question)
    built = []
    for length in lengths:
        records = [record for path in files[length] for record in records_of(path)]
        for record in records[:samples]:
            prompt = f"{frame}{record['input'].strip()}\n{record['question'].strip()}"
            fits = measure.fits(prompt, new_tokens=NEW_TOKENS)
            built.append(
                {
                    "prompt": measure.wrap(prompt) if fits else documents.PLACEHOLDER,
                    "target": record["target"],
                    "length": length,
                    "fits": fits,
                }
            )
    return documents.dataset(built, task=f"BABILong {question}")


def published(folder: Path | None, question: str) -> dict[int, list[Path]]:
    """Return published length -> files of one question: `4k/qa1-00000-of-00001.parquet`, or `qa1/4k.json`.

    Raises:
        UserError: there is none.
    """
    place = subfolder(folder, "babilong")
    found: dict[int, list[Path]] = {}
    for path in sorted(place.rglob("*.*")) if place else []:
        # Of a file both folder and name are read, in either order.
        names = f"{path.parent.name} {path.name}"
        length = re.search(r"\b(\d+)k\b", names)
        if path.suffix in (".parquet", ".json", ".jsonl") and length and re.search(rf"\b{question}\b", names):
            found.setdefault(1024 * int(length[1]), []).append(path)
    if not found:
        raise UserError(
            f"BABILong {question}: no data found in {place or 'DATA/babilong'}; they are not bundled",
            fix=f"put {WHERE} there, with its folders, and give DATA with --data",
        )
    return found


def records_of(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the records of one file.

    Raises:
        UserError: it cannot be read, or lacks a field.
    """
    if path.suffix != ".parquet":
        return read_records(path, FIELDS)
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_table(path, columns=list(FIELDS)).to_pylist())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a file of BABILong ({error}); it needs {', '.join(FIELDS)}") from error


def examples(question: str) -> str:
    """Return the harness's description of a question with its worked examples, up to where the sample begins."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    task = load_yaml(
        Path(lm_eval.tasks.__file__).parent / "babilong" / f"babilong_{question}.yaml", resolve_func=False
    )
    shown = [
        f"{each['input'].strip()}\n{each['question'].strip()}{task['target_delimiter']}{each['target']}\n\n"
        for each in task["fewshot_config"]["samples"][: task["num_fewshot"]]
    ]
    return task["description"] + "".join(shown)


@documents.scored
def process_results(document: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Score one answer as the harness does: whether it contains the target."""
    from lm_eval.tasks.babilong.common_utils import process_results as harness_score

    return harness_score(dict(document), [answer])
