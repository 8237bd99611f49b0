"""The retrieval-head score: 1 for a head that copies the answer, 0 for the others, in a model and in a pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from meap_megatron.evaluation.attention.copied_tokens import analyse, copied, head_scores
from meap_megatron.evaluation.attention.model_pair import ComparedModel
from meap_megatron.evaluation.attention.retrieval_heads import encode, masked
from tests.evaluation.attention.pairs import write_arm, write_tokenizer
from tests.evaluation.fakes import evaluated

TOKENS = 15


def model_with_a_copying_head() -> Any:
    """One layer of two heads: at token a, head 0 attends to where token a + 1 is; head 1 to everything alike."""
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=64,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        # Nothing but the first pair of dimensions turns with the position.
        rope_parameters={"rope_type": "default", "rope_theta": 1e30},
    )
    model = LlamaForCausalLM(config).eval()
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        for token in range(TOKENS):
            model.model.embed_tokens.weight[token, token] = 1
            attention.k_proj.weight[1 + token, token] = 1
            if token + 1 < TOKENS:
                attention.q_proj.weight[2 + token, token] = 1
    return model


def test_a_head_that_copies_scores_1_and_another_0() -> None:
    model = model_with_a_copying_head()
    prompt, span = np.array([0, 9, 3, 4, 5, 6, 11, 2]), np.array([2, 3, 4, 5])
    scores = head_scores(model, prompt, np.array([3, 4, 5, 6]), span=span)
    assert scores.tolist() == [[1.0, 0.0]]
    # Half of the answer; a token that is elsewhere in the prompt; nothing said.
    assert head_scores(model, prompt, np.array([3, 4]), span=span).tolist() == [[0.5, 0.0]]
    assert head_scores(model, prompt, np.array([3, 4, 5, 6]), span=np.array([6])).tolist() == [[0.0, 0.0]]
    assert head_scores(model, prompt, np.array([], dtype=np.int64), span=span).tolist() == [[0.0, 0.0]]
    # What is said differs from what is attended to: no copy.
    assert head_scores(model, prompt, np.array([8, 8]), span=span).tolist() == [[0.0, 0.0]]


def test_copies_are_told_apart_by_hand() -> None:
    tokens = np.array([5, 6, 7, 8, 6, 7])
    most = np.array([[[1, 3], [1, 2], [2, 1]]])
    assert copied(most, tokens, span=np.array([1, 2])).tolist() == [[[True, False], [True, True], [False, False]]]


def test_heads_are_ranked_and_models_compared_on_the_same_prompts() -> None:
    def sample(ntp: list[float], meap: list[float]) -> dict[str, Any]:
        return {
            f"{arm}_clean": {"recall": 1.0, "generated": [heads], "forced": [[0.0, 0.0]]}
            for arm, heads in (("ntp", ntp), ("meap", meap))
        }

    found = analyse([sample([0.0, 0.2], [0.4, 0.0]), sample([0.04, 0.2], [0.8, 0.04])])
    meap = found["cells"]["meap_clean"]["generated"]
    assert (meap["best"], meap["mean"], meap["retrieval_heads"]) == (pytest.approx(0.6), pytest.approx(0.31), 1)
    assert meap["heads"][0] == {"layer": 0, "head": 0, "score": pytest.approx(0.6)}
    assert found["cells"]["meap_clean"]["forced"]["heads"] == []
    assert found["comparisons"].keys() == {"model"}
    assert found["comparisons"]["model"]["generated"]["best"]["difference"] == pytest.approx(0.4)
    assert found["comparisons"]["model"]["generated"]["mean"]["tests"]["n"] == 2


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    tokenizer = write_tokenizer(folder / "tokenizer", tokenizer_folder)
    return {name: write_arm(folder / name, tokenizer, seed=seed) for seed, name in enumerate(("meap", "ntp"))}


def test_the_answer_is_found_and_neither_it_nor_the_question_is_masked(arms: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(arms["meap"])
    arm = ComparedModel(
        name="model", folder=arms["meap"], model=None, tokenizer=tokenizer, add_bos=True, info={}, limit=None
    )
    prompt = "<book> Some words come first. \nIt is red, is it.\n Other words follow. </book> Question: Is it? Answer:"
    document = {"prompt": prompt, "needle": "It is red, is it.", "answer": "red"}
    sample = encode(document, arm, add_bos=True)
    assert sample.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(sample.ids[sample.answer]).strip(" ,") == "red"
    hidden = masked(sample, mask_id=512, ratio=0.9, seed=0, index=0)
    kept = tokenizer.decode(hidden[hidden != 512])
    assert (hidden == 512).sum() > 10 and "It is red, is it." in kept and "Question: Is it? Answer:" in kept


def test_a_pair_is_read_clean_and_masked_and_a_model_alone_too(
    arms: dict[str, Path], essays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(*options: str, out: str) -> dict[str, Any]:
        few = {"model": arms["meap"], "essays": essays, "variants": 1, "max-length": 600}
        status = 2 if out == "refused" else 0
        return evaluated("retrieval-heads", tmp_path / out, *options, status=status, **few)

    few = ["--lengths", "512", "--depths", "0,50"]
    pair = evaluate("--baseline", str(arms["ntp"]), *few, out="pair")
    assert {(cell["arm"], cell["input"], cell["mode"]) for cell in pair["cells"]} == {
        (arm, kind, mode)
        for arm in ("ntp", "meap")
        for kind in ("clean", "masked")
        for mode in ("generated", "forced")
    }
    assert pair["analysis"]["comparisons"].keys() == {"table_10", "model", "input", "input_of_ntp", "model_on_masked"}
    assert np.array(pair["analysis"]["cells"]["meap_clean"]["forced"]["scores"]).shape == (2, 4)
    assert pair["requests"] == {"known": 0, "asked": 2} and pair["baseline"]["fingerprint"]
    assert (tmp_path / "pair" / "retrieval-heads.png").stat().st_size > 10_000
    itself = evaluate("--baseline", str(arms["meap"]), *few, out="itself")
    assert itself["analysis"]["comparisons"]["model"]["forced"]["mean"]["difference"] == 0
    alone = evaluate(*few, out="alone")
    for mode in ("generated", "forced"):
        expected = pair["analysis"]["cells"]["meap_clean"][mode]
        assert alone["analysis"]["cells"]["model_clean"][mode] == expected
    assert alone["analysis"]["comparisons"].keys() == {"input"}
    assert evaluate(*few, out="alone") == alone and "finished already" in capsys.readouterr().err
    evaluate("--lengths", "9000", out="refused")
    assert "above the model's limit" in capsys.readouterr().err
