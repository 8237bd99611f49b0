"""Prompts begin as the model was trained, whoever runs the evaluation; what contradicts that is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation import bos
from meap_megatron.evaluation.prompt_length import load_measure, load_tokenizer
from meap_megatron.evaluation.retrieval import needle
from tests.support.corpus import write_byte_tokenizer

POLICY = {"format_version": 1, "add_bos": True}


@pytest.fixture
def model(tmp_path: Path, tokenizer_folder: Path) -> Path:
    """A folder with a tokenizer that adds no BOS by itself."""
    shutil.copytree(tokenizer_folder, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 777}')
    return tmp_path / "model"


def write_policy(model: Path, content: Any) -> None:
    (model / bos.FILE_NAME).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("policy", "requested", "expected"),
    [
        (None, None, bos.BosPolicy(add_bos=False, source="tokenizer default", override=None)),
        (None, True, bos.BosPolicy(add_bos=True, source="--bos", override=True)),
        (None, False, bos.BosPolicy(add_bos=False, source="--no-bos", override=None)),
        ({**POLICY, "add_bos": False}, None, bos.BosPolicy(add_bos=False, source="meap_eval.json", override=None)),
        (POLICY, None, bos.BosPolicy(add_bos=True, source="meap_eval.json", override=True)),
        ({**POLICY, "add_bos": None}, None, bos.BosPolicy(add_bos=False, source="tokenizer default", override=None)),
        (POLICY, True, bos.BosPolicy(add_bos=True, source="meap_eval.json", override=True)),
    ],
)
def test_the_policy_of_the_training_stands_before_the_tokenizers_default(
    model: Path, policy: Any, requested: bool | None, expected: bos.BosPolicy
) -> None:
    if policy is not None:
        write_policy(model, policy)
    assert bos.decide(model, load_tokenizer(str(model)), requested=requested) == expected


def test_a_request_against_the_policy_is_refused(model: Path) -> None:
    write_policy(model, POLICY)
    with pytest.raises(UserError, match="was trained with BOS, and the run was asked for --no-bos"):
        bos.decide(model, load_tokenizer(str(model)), requested=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ({"format_version": 2, "add_bos": True}, "'format_version' must be 1"),
        ({"format_version": 1, "add_bos": "yes"}, "'add_bos' must be true, false or null, found 'yes'"),
    ],
)
def test_a_broken_policy_is_refused(model: Path, content: Any, message: str) -> None:
    write_policy(model, content)
    with pytest.raises(UserError, match=message):
        bos.read_policy(model)


def test_bos_of_a_tokenizer_without_one_is_refused(model: Path) -> None:
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    with pytest.raises(UserError, match="the tokenizer has no BOS token"):
        bos.decide(model, load_tokenizer(str(model)), requested=True)


def test_plain_lm_eval_is_refused_where_its_prompts_would_begin_otherwise(model: Path, essays: Path) -> None:
    write_policy(model, POLICY)
    options: dict[str, Any] = {"pretrained": str(model), "essays": str(essays), "lengths": [512], "depths": [50]}
    with pytest.raises(
        UserError, match="trained with BOS, but the prompts of this run would be without it; add add_bos"
    ):
        needle.build(**options)
    # As the harness hands over --model_args add_bos_token=True.
    built = needle.build(**options, add_bos_token="True")["test"]
    assert len(built) == 6


def test_bos_counts_as_a_token_of_the_prompt(model: Path) -> None:
    without, with_bos = (load_measure({"pretrained": str(model), "add_bos_token": add}) for add in (False, True))
    assert with_bos.count("some text") == without.count("some text") + 1
    assert with_bos.limit == 777


def test_the_end_of_the_limit_is_the_last_token_of_the_answer(tmp_path: Path) -> None:
    measure = load_measure(
        {"tokenizer": str(write_byte_tokenizer(tmp_path, texts=("x",), adds_bos=False)), "max_length": 30}
    )
    assert measure.count("x y z " * 4) == 24
    assert measure.fits("x y z " * 4, new_tokens=6)
    assert not measure.fits("x y z " * 4, new_tokens=7)
