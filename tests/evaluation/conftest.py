"""A tiny Llama with a tokenizer of its own, made once per test process, and nothing from the network."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.evaluation.fakes import write_essays, write_long_context_data  # noqa: E402
from tests.support.corpus import write_byte_tokenizer  # noqa: E402

TASKS = Path(__file__).resolve().parents[2] / "meap_megatron" / "evaluation" / "tasks"


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), adds_bos=False)


@pytest.fixture(scope="session")
def essays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_essays(tmp_path_factory.mktemp("essays"))


@pytest.fixture(scope="session")
def long_context_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_context_data(tmp_path_factory.mktemp("long_context"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAP_CACHE", str(tmp_path / "cache"))


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


RECITED = "eat a sandwich in Dolores Park on a sunny day in Paris or Lima with a baker. "


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A Llama of two layers that has learnt to recite one sentence, so that its scores are neither 0 nor 100 %."""
    import shutil

    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    stream = torch.tensor(tokenizer(RECITED * 20).input_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(80):
        starts = range(step % 7, step % 7 + 8)
        batch = torch.stack([stream[start : start + 48] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_folder / name, folder / name)
    return folder
