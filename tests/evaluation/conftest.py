"""A tiny Llama with a tokenizer of its own, made once per test process, and nothing from the network."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.evaluation.fakes import write_essays  # noqa: E402
from tests.support.corpus import write_byte_tokenizer  # noqa: E402

TASKS = Path(__file__).resolve().parents[2] / "meap_megatron" / "evaluation" / "tasks"


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def essays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_essays(tmp_path_factory.mktemp("essays"))


@pytest.fixture(scope="session")
def score(tokenizer_folder: Path) -> Any:
    """Run tasks with a harness model through the harness itself: results by task name."""

    def run(lm: Any, tasks: list[str], **metadata: Any) -> dict[str, Any]:
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(
            include_path=str(TASKS), include_defaults=False, metadata={"tokenizer": str(tokenizer_folder), **metadata}
        )
        done = evaluate(lm=lm, task_dict=manager.load(tasks), bootstrap_iters=0)
        assert done is not None
        return {
            name: {key.removesuffix(",none"): value for key, value in result.items()}
            for name, result in done["results"].items()
        } | {"samples": done["samples"]}

    return run
