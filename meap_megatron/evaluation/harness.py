"""Run the suites that are tasks of lm-evaluation-harness, through the harness, with the settings of the paper."""

import logging
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from meap_megatron.errors import RunError, UserError, first_line
from meap_megatron.evaluation.data_files import data_folder, find
from meap_megatron.evaluation.prompt_format import empty_answers
from meap_megatron.evaluation.response_cache import Ledger, RecordingLM, responses_file
from meap_megatron.evaluation.retrieval.haystack import describe_essays, find_essays
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.suites import SUITES, Outcome, Request, Suite
from meap_megatron.terminal import is_verbose

TASKS = Path(__file__).parent / "tasks"
COMMONSENSE_FOLDERS = ("arc", "super_glue/boolq", "piqa", "hellaswag", "winogrande", "openbookqa")
"""Where the harness keeps the seven tasks: reading these instead of its thousands of files saves 10 s."""


def settings(request: Request, suite: Suite) -> dict[str, Any]:
    """Return what a run of a suite depends on beside the model; None means the published setting."""
    taken = {name: getattr(request, name) for name in suite.settings}
    tasks = {"tasks": list(chosen_tasks(request, suite))} if request.tasks or suite.needs else {}
    return {**taken, **tasks, "limit": request.limit, "seed": request.seed, "batch_size": request.batch_size}


def chosen_tasks(request: Request, suite: Suite) -> tuple[str, ...]:
    """Return the tasks of a suite that are asked for, in the suite's order.

    Raises:
        UserError: a name is not one of the suite's tasks.
    """
    if request.tasks is None:
        folder = data_folder(request.data) if suite.needs else None
        absent = {task for task, file in suite.needs if folder is None or find(folder, file) is None}
        return tuple(name for name in suite.tasks if name not in absent)
    names = {name.removeprefix("meap_"): name for name in suite.tasks}
    wanted = {name.removeprefix("meap_") for name in request.tasks}
    if unknown := sorted(wanted - set(names)):
        raise UserError(f"--tasks {unknown[0]}: the tasks of this suite are {', '.join(names)}")
    return tuple(name for short, name in names.items() if short in wanted)


def task_metadata(request: Request, session: Session, suite: Suite) -> dict[str, Any]:
    """Return what the tasks receive, in the form in which plain `lm_eval` hands it to them."""
    given = {name: getattr(request, name) for name in suite.settings}
    if "variants" in suite.settings:
        # A needle cell's samples are its variants.
        given["variants"] = min(filter(None, (request.limit, request.variants)), default=None)
    metadata = {
        "pretrained": str(request.model),
        "max_length": session.limit,
        "add_bos_token": session.policy.override,
        "samples": request.limit,
        "chat_template": session.asks_in_chat(suite) or None,
        "seed": request.seed,
        **given,
    }
    return {name: value for name, value in metadata.items() if value is not None}


def check_lengths(request: Request, session: Session, suite: Suite) -> None:
    """Refuse lengths that the user asked for and the model cannot take.

    Raises:
        UserError: one is above the limit. (Lengths of the published grid are counted instead.)
    """
    if "lengths" not in suite.settings or session.limit is None:
        return
    above = [length for length in request.lengths or [] if length > session.limit]
    if above:
        raise UserError(
            f"length {above[0]} is above the model's limit of {session.limit} tokens (config.json), prompt and answer "
            f"together",
            fix=f"give --lengths up to {session.limit}",
        )


def load_tasks(names: tuple[str, ...], metadata: dict[str, Any], *, local: bool) -> dict[str, Any]:
    """Load tasks by name.

    Raises:
        UserError: data or a setting cannot be used.
        RunError: data sets of the harness are neither cached nor within reach.
    """
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    # The harness warns of every option of every task; what concerns the user is checked here.
    if not is_verbose():
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        shipped = Path(lm_eval.tasks.__file__).parent
        folders = [TASKS] if local else [shipped / folder for folder in COMMONSENSE_FOLDERS]
        manager = TaskManager(include_path=list(map(str, folders)), include_defaults=False, metadata=metadata)
        return dict(manager.load(list(names)))
    except UserError:
        raise
    except Exception as error:
        if local:
            raise
        raise RunError(
            f"the data sets of {', '.join(names)} are not on this machine and cannot be fetched "
            f"({type(error).__name__}: {first_line(error):.160})",
            fix="run this suite once where there is a network, "
            "then copy that machine's Hugging Face cache (HF_HOME) and set HF_HUB_OFFLINE=1",
        ) from error


def run(request: Request, session: Session, name: str, chosen: Mapping[str, Any]) -> Outcome:
    """Run a suite of harness tasks.

    Returns:
        One record for every sample (task, fields, answer, metrics), and what goes into the results document:
        `tasks`, `requests` (how many went to the model in this run, how many were known) and, of the needle, `haystack`.

    Raises:
        UserError: input that cannot be used.
        RunError: data sets are out of reach.
    """
    from lm_eval.evaluator import evaluate

    suite = SUITES[name]
    check_lengths(request, session, suite)
    names = tuple(chosen.get("tasks", suite.tasks))
    # A chat template writes its own BOS.
    session.lm.add_bos_token = False if session.asks_in_chat(suite) else session.policy.override
    loaded = load_tasks(names, task_metadata(request, session, suite), local=suite.local)
    with closing(Ledger(responses_file(request, name), identity=session.identity())) as ledger:
        lm = RecordingLM(session.lm, ledger)
        limit = None if suite.local else request.limit
        done = evaluate(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    assert done is not None
    records = [record(task, sample) for task in names for sample in done["samples"][task]]
    tasks = [
        {
            "task": task,
            "version": done["versions"][task],
            "metrics": {
                key.removesuffix(",none"): value
                for key, value in done["results"][task].items()
                if key.endswith(",none") and "_stderr," not in key
            },
        }
        for task in names
    ]
    found: dict[str, Any] = {"tasks": tasks, "requests": ledger.requests()}
    said = [str(one["answer_given"]) for one in records if suite.local and not one["metrics"].get("unfit")]
    if warning := empty_answers(said, applied=session.asks_in_chat(suite)):
        print(f"{name}: warning: {warning}", file=sys.stderr)
        found["warnings"] = [warning]
    if name == "needle":
        found["haystack"] = describe_essays(find_essays(request.essays))
    return records, found


def record(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of one sample: where it belongs, the answer, the metrics; the prompt as a hash."""
    own = task.startswith("meap_")
    fields = {
        key: value
        for key, value in sample["doc"].items()
        if own and key not in ("prompt", "needle", "keywords", "kind")
    }
    return {
        "task": task,
        "doc_id": sample["doc_id"],
        **fields,
        "prompt_sha256": sample["prompt_hash"],
        "answer_given": sample["filtered_resps"][0] if own else sample["filtered_resps"],
        "metrics": {name: sample[name] for name in sample["metrics"]},
    }
