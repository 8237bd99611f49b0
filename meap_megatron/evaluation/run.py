"""Run suites on one model: what `meap evaluate` does."""

import contextlib
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from meap_megatron.atomic import disk_errors
from meap_megatron.errors import RunError, UserError, counted
from meap_megatron.evaluation import figures, results
from meap_megatron.evaluation.identity import check_model
from meap_megatron.evaluation.response_cache import responses_file
from meap_megatron.evaluation.session import Session, open_session
from meap_megatron.evaluation.suites import SUITES, Request
from meap_megatron.terminal import print_error

HARNESS = "meap_megatron.evaluation.harness"
RUNNERS = {
    "hallucination": "meap_megatron.evaluation.hallucination.suite",
    "text-loss": "meap_megatron.evaluation.text_loss",
    "attention": "meap_megatron.evaluation.attention.suite",
    "retrieval-heads": "meap_megatron.evaluation.attention.retrieval_heads",
    "regions": "meap_megatron.evaluation.attention.regions",
}
"""Suite -> module whose `run(request, session, name, settings)` runs it and returns the results document; all others: the
harness."""


def evaluate(request: Request, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run suites one after the other and yield the results document of each as it is finished.

    With several suites, one that cannot run does not keep the others from running.

    Raises:
        UserError: the model or a setting cannot be used.
        RunError: of several suites, some could not run.
    """
    check_backend(request, names)
    check_model(request.model)
    with writable(request.out):
        session = open_session(request)
        yield from _suites(request, session, names)


def _suites(request: Request, session: Session, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    failed = []
    for name in names:
        try:
            content = evaluate_suite(request, session, name)
        except (UserError, RunError) as error:
            if len(names) == 1:
                raise
            failed.append(name)
            print_error(error.at(name))
        else:
            yield content
    if failed:
        raise RunError(
            f"{len(failed)} of {counted(len(names), 'suite')} did not run: {', '.join(failed)} (reasons above)"
        )


def check_backend(request: Request, names: Sequence[str]) -> None:
    """Refuse vLLM where it is not installed, and for suites that look into the model.

    Raises:
        UserError: it cannot run them.
    """
    if request.backend != "vllm":
        return
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "--backend vllm needs vLLM, and it is not installed",
            fix="pip install vllm on a machine with a GPU, or leave --backend out",
        )
    if inner := [name for name in names if not SUITES[name].tasks and not SUITES[name].judged]:
        raise UserError(
            f"--backend vllm only answers, and suite {inner[0]} looks into the model", fix="use --backend hf for it"
        )


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Make the folder of the results and try to write, before a model is loaded for minutes; remove it if it stays empty.

    Raises:
        UserError: it cannot be written.
    """
    probe = out / ".meap-evaluate"
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"results cannot be written to {out}: {error.strerror}", fix="name a folder with --out DIR"
        ) from None
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it holds results
                out.rmdir()


def evaluate_suite(request: Request, session: Session, name: str) -> dict[str, Any]:
    """Run one suite, or return the document of a run that has been finished already."""
    suite = SUITES[name]
    runner = importlib.import_module(RUNNERS.get(name, HARNESS))
    settings = runner.settings(request, suite)
    path = request.out / f"{name}.json"
    answers = responses_file(request, name)
    if request.overwrite:
        # The results of the earlier run stay until the new ones are complete.
        answers.unlink(missing_ok=True)
    elif (earlier := results.finished(path, session=session, settings=settings)) is not None:
        print(f"{name}: finished already, {path}", file=sys.stderr)
        return earlier
    started = time.monotonic()
    records, found = runner.run(request, session, name, settings)
    content = results.document(
        name,
        request=request,
        session=session,
        settings=settings,
        records=records,
        found=found,
        seconds=time.monotonic() - started,
    )
    results.write(request.out, name, content, records)
    if request.overwrite and answers.exists():
        with disk_errors(answers):
            os.replace(answers, path.with_suffix(".responses.jsonl"))
    picture = path.with_suffix(".png")
    if figures.draw(content, picture) is None:
        picture.unlink(missing_ok=True)  # of results that were replaced
    return content


def table(content: dict[str, Any]) -> str:
    """Return a results document as lines for the terminal, shares in percent."""
    scale = 100 if content["headline"].get("percent", True) else 1
    lines = [f"{content['suite']}: {counted(content['samples'], 'sample')} in {content['seconds']:,.1f} s"]
    for task in content["tasks"]:
        # Of text, the means over tokens are shown, and not those over windows.
        scores = {name: found for name, found in task["metrics"].items() if not name.startswith("window_")}
        shown = ", ".join(f"{name} {_shown(found, scale)}" for name, found in scores.items()) or "nothing scored"
        data = f"  [{', '.join(task['sources'])}]" if task["sources"] else ""
        lines.append(f"  {task['task']:<28} {shown}{data}")
        if task["unfit"]:
            lines.append(
                f"  {'':<28} {task['unfit']:,} of {counted(task['samples'], 'sample')} not scored: longer than the model's "
                f"{content['model']['max_length']:,} tokens or the given limit, or too short for the task"
            )
    if (found := content.get("effective_length")) is not None:
        absolute, relative = (
            f"{n:,} tokens" if n is not None else "none" for n in (found["absolute"], found["relative"])
        )
        lines.append(
            f"  effective length: {absolute} (score of at least {100 * found['threshold']:g}), {relative} (at least "
            f"{100 * found['share']:g} % of the {100 * found['base_score']:.1f} at {found['base_length']:,} tokens)"
        )
    return "\n".join(lines)


def _shown(found: dict[str, Any], scale: int) -> str:
    text, digits = f"{scale * found['mean']:.{2 if scale == 100 else 4}f}", 1 if scale == 100 else 4
    return (
        f"{text} [{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]" if "low" in found else text
    )
