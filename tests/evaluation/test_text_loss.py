"""`meap evaluate text-loss` on models whose loss is known, and the windows it reads."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from meap_megatron.cli.main import main
from meap_megatron.evaluation.text_loss import pick, token_losses
from meap_megatron.evaluation.text_windows import analyse, bin_edges, num_windows, occurrences, sums, window
from meap_megatron.tokenizer.byte_lengths import ByteLengths
from tests.evaluation.attention.pairs import VOCABULARY, write_arm, write_tokenizer
from tests.evaluation.fakes import evaluated
from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl

SIZE = 50
TWO_BYTES = ByteLengths(inside=np.full(SIZE, 2, dtype=np.int32), first=np.full(SIZE, 1, dtype=np.int32))


class Copier:
    """Predicts what followed the last occurrence of the present token, and every token alike where there was none."""

    device = torch.device("cpu")

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, SIZE)
        for row, ids in enumerate(input_ids.tolist()):
            for place, token in enumerate(ids):
                earlier = [other for other in range(place) if ids[other] == token]
                if earlier:
                    logits[row, place, ids[earlier[-1] + 1]] = 1e4
        return SimpleNamespace(logits=logits)


def test_a_model_that_copies_has_no_loss_on_what_repeats() -> None:
    edges = bin_edges(90)
    found = []
    for seed in range(3):
        half = np.random.default_rng(seed).permutation(np.arange(1, 41))
        read = window(np.concatenate([half, half]), 0, length=90, prefix=0, sizes=TWO_BYTES)
        (losses,) = token_losses(Copier(), [read.tokens])
        found.append(sums(read, losses, edges=edges))
    result = analyse(found, edges=edges, seed=0)
    for n in ("2", "4"):
        ngrams = result["ngrams"][n]
        assert ngrams["repeated"]["mean"] == ngrams["repeated"]["high"] == 0
        assert ngrams["first"]["mean"] == pytest.approx(math.log(SIZE))
        assert ngrams["copy_gain"]["mean"] == ngrams["copy_gain"]["low"] == pytest.approx(math.log(SIZE))
    assert result["ngrams"]["2"]["repeated"]["n"] == result["ngrams"]["2"]["first"]["n"] == 3 * 39
    # 40 tokens and the first of the second half are guessed, 39 copied; 80 tokens are 159 bytes.
    assert result["loss"]["mean"] == pytest.approx(41 / 80 * math.log(SIZE))
    assert result["bits_per_byte"]["mean"] == pytest.approx(41 * math.log2(SIZE) / 159)
    by_position = {(place["from"], place["to"]): place["mean"] for place in result["positions"]}
    assert by_position[(24, 31)] == pytest.approx(math.log(SIZE)) and by_position[(48, 63)] == 0


def test_occurrences_are_told_apart_by_hand() -> None:
    found = occurrences(np.array([7, 8, 9, 7, 8, 7, 8]), 2)
    assert {kind: np.flatnonzero(flags).tolist() for kind, flags in found.items()} == {
        "first": [1],
        "repeated": [4, 6],
        "once": [2, 3, 5],
    }
    assert not any(flags.any() for flags in occurrences(np.array([1, 2]), 4).values())


@pytest.mark.parametrize("prefix", [0, None])
def test_every_token_is_predicted_once_after_the_token_before_it(prefix: int | None) -> None:
    ids = np.arange(1, 12)
    (count,) = num_windows(np.array([len(ids)]), length=4, prefix=prefix is not None).tolist()
    read = [window(ids, index, length=4, prefix=prefix, sizes=TWO_BYTES) for index in range(count)]
    whole = [prefix, *ids] if prefix is not None else list(ids)
    assert [token for one in read for token in one.tokens[1:]] == whole[1:]
    assert [one.tokens[0] for one in read] == whole[:-1][::4]
    assert sum(one.bytes for one in read) == (21 if prefix is not None else 20)
    assert bin_edges(12).tolist() == [1, 2, 3, 4, 6, 8, 12, 13]
    assert pick(np.array([2, 0, 3]), limit=9, seed=0) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert len(set(pick(np.array([50, 50]), limit=20, seed=1))) == 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("text_loss")
    return write_arm(folder / "model", write_tokenizer(folder / "tokenizer", tokenizer_folder), seed=1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", tuple(t[:900] for t in library_texts(9_000)))


@pytest.fixture
def evaluate(model: Path, texts: Path, tmp_path: Path) -> Any:
    def run(*options: str, out: str = "out", text: Path = texts, of: Path = model, status: int = 0) -> dict[str, Any]:
        return evaluated("text-loss", tmp_path / out, *options, status=status, model=of, text=text)

    return run


def test_a_uniform_model_needs_log_v_for_every_token(
    evaluate: Any, model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    flat = Path(shutil.copytree(model, tmp_path / "flat"))
    loaded = AutoModelForCausalLM.from_pretrained(flat)
    torch.nn.init.zeros_(loaded.lm_head.weight)
    loaded.save_pretrained(flat)
    content = evaluate("--lengths", "64", "--limit", "1000", of=flat)
    rows = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    tokens = sum(len(AutoTokenizer.from_pretrained(flat)(row).input_ids) for row in rows)
    size = sum(len(row.encode()) for row in rows)
    bits = tokens * math.log2(VOCABULARY) / size
    assert content["headline"]["bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert content["headline"]["loss"] == pytest.approx(math.log(VOCABULARY), rel=1e-6)
    assert content["headline"]["copy_gain"] == pytest.approx({"2": 0, "4": 0}, abs=1e-5)
    assert content["analysis"]["bits_per_byte"]["n"] == size and content["notes"] == []
    assert [cell["mean"] for cell in content["cells"]] == pytest.approx([math.log(VOCABULARY)] * 12, rel=1e-5)
    assert content["samples"] == content["data"]["windows"] and content["data"]["documents"] == len(rows)
    assert (tmp_path / "out" / "text-loss.png").stat().st_size > 10_000
    assert f"bits_per_byte {bits:.4f}" in capsys.readouterr().out


def test_text_an_indexed_dataset_and_batches_give_the_same_numbers(
    evaluate: Any, model: Path, texts: Path, tmp_path: Path
) -> None:
    content = evaluate("--lengths", "48", "--limit", "20")
    words = ["preprocess", "text", str(texts), "--output", str(tmp_path / "data"), "--tokenizer", str(model)]
    assert main([*words, "--bos-token", "<s>"]) == 0
    indexed = evaluate("--lengths", "48", "--limit", "20", out="indexed", text=tmp_path / "data")
    assert indexed["analysis"] == content["analysis"]
    batched = evaluate("--lengths", "48", "--limit", "20", "--batch-size", "7", out="batched")
    assert batched["analysis"]["loss"]["mean"] == pytest.approx(content["analysis"]["loss"]["mean"], rel=1e-6)
    assert evaluate("--lengths", "48", "--limit", "20") == content  # finished already


def test_wrong_inputs_are_refused_with_the_reason(
    evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str, **changed: Any) -> str:
        evaluate(*options, status=2, **changed)
        return capsys.readouterr().err

    assert "windows of one length\n  fix: give one number" in refusal("--lengths", "16,32")
    assert "--lengths 9999 is above the model's limit of 2048 tokens" in refusal("--lengths", "9999")
    assert "neither an indexed dataset" in refusal(text=tmp_path / "nowhere")
    other = write_byte_tokenizer(tmp_path / "other", vocab_size=400, texts=("a b c",))
    source = write_jsonl(tmp_path / "few.jsonl", ("some text",))
    words = ["preprocess", "text", str(source), "--output", str(tmp_path / "few"), "--tokenizer", str(other)]
    assert main(words) == 0
    assert "its ids mean other tokens" in refusal(text=tmp_path / "few")
