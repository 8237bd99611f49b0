"""`meap evaluate attention` and `regions` on pairs of tiny models: the numbers, the documents, resume, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meap_megatron.cli.main import main
from meap_megatron.evaluation import bos
from meap_megatron.evaluation.attention import observe as attention_observe
from meap_megatron.evaluation.attention.region_items import PAPER_ITEMS, REGIONS
from tests.evaluation.attention.pairs import VOCABULARY, write_arm, write_tokenizer
from tests.evaluation.fakes import evaluated, samples_of
from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl

MASK_ID = 512
SMALL = ["--lengths", "32,64", "--limit", "6"]


@pytest.fixture(scope="session")
def arms(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("arms")
    tokenizer = write_tokenizer(folder / "tokenizer", tokenizer_folder)
    return {name: write_arm(folder / name, tokenizer, seed=seed) for seed, name in enumerate(("meap", "ntp"))} | {
        "tokenizer": tokenizer
    }


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, arms: dict[str, Path]) -> str:
    """An indexed dataset of library sources, made with the tokenizer of the models."""
    folder = tmp_path_factory.mktemp("text")
    source = write_jsonl(folder / "text.jsonl", library_texts(30_000))
    words = ["preprocess", "text", str(source), "--output", str(folder / "data")]
    assert main([*words, "--tokenizer", str(arms["tokenizer"])]) == 0
    return str(folder / "data")


@pytest.fixture
def evaluate(arms: dict[str, Path], text: str, tmp_path: Path) -> Any:
    """Run one of the two suites and return its results document."""

    def run(suite: str, *options: str, out: str = "out", status: int = 0, **changed: Any) -> dict[str, Any]:
        given = {"model": arms["meap"], "baseline": arms["ntp"], "text": text, **changed}
        return evaluated(suite, tmp_path / out, *options, status=status, **given)

    return run


def test_the_decay_is_that_of_the_eager_attention_of_the_four_cells(
    evaluate: Any, arms: dict[str, Path], text: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from meap_megatron.indexed.pair import open_pair

    content = evaluate("attention", *SMALL)
    samples = [s for s in samples_of("attention", tmp_path / "out") if s["length"] == 32]
    models = {
        name: AutoModelForCausalLM.from_pretrained(arms[name], attn_implementation="eager").eval()
        for name in ("ntp", "meap")
    }
    tokens = open_pair(text).tokens
    found: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        start = sample["block"] * 33
        clean = np.asarray(tokens[start : start + 32], dtype=np.int64)
        masked = _masked(content, sample)
        inputs = {"clean": clean, "masked": np.where(masked, MASK_ID, clean)}
        for cell in ("ntp_clean", "ntp_masked", "meap_clean", "meap_masked"):
            arm, kind = cell.split("_")
            with torch.no_grad():
                weights = models[arm](torch.from_numpy(inputs[kind])[None], output_attentions=True).attentions
            a = torch.stack(weights).double().mean(dim=(0, 1, 2, 3)).numpy()
            found.setdefault(cell, []).append((a[masked].mean(), a[~masked].var()))
            assert sample["attention"][cell]["full"]["masked"] == pytest.approx(a[masked].mean(), rel=1e-4)
    means = {cell: np.mean(values, axis=0) for cell, values in found.items()}
    for comparison, (first, second) in {
        "table_10": ("ntp_clean", "meap_masked"),
        "model": ("ntp_clean", "meap_clean"),
        "input": ("meap_clean", "meap_masked"),
    }.items():
        row = content["headline"]["by_length"]["32"][comparison]
        assert row["decay"] == pytest.approx(1 - means[second][0] / means[first][0], abs=1e-4)
        assert row["variance_increase"] == pytest.approx(means[second][1] / means[first][1] - 1, abs=1e-4)
        assert abs(row["decay"]) > 1e-3  # the models do differ, and the masks do something
    assert content["cells"][0]["mean"] == pytest.approx(means["ntp_clean"][0], rel=1e-4)


def _masked(content: dict[str, Any], sample: dict[str, Any]) -> np.ndarray:
    from meap_megatron.evaluation.attention.sequences import positions_to_mask

    (positions,) = positions_to_mask(
        [sample["block"]],
        source_hash=content["data"]["sha256"],
        length=sample["length"],
        ratio=0.15,
        seed=0,
        mask_first=False,
    )
    inside = np.zeros(sample["length"], dtype=bool)
    inside[positions] = True
    return inside


def test_the_document_says_what_was_compared(evaluate: Any, arms: dict[str, Path], text: str, tmp_path: Path) -> None:
    content = evaluate("attention", *SMALL, "--batch-size", "4")
    assert [task["task"] for task in content["tasks"]] == ["attention_32", "attention_64"]
    assert [task["samples"] for task in content["tasks"]] == [6, 6]
    assert content["model"]["fingerprint"] != content["baseline"]["fingerprint"]
    assert content["settings"]["baseline"]["model"] == content["baseline"]["fingerprint"]
    assert content["data"]["path"] == text and content["data"]["kind"] == "indexed dataset"
    assert len(content["cells"]) == 2 * 4
    assert content["analysis"]["64"].keys() == {"full", "valid", "last_query", "no_sink", "per_layer"}
    assert content["analysis"]["64"]["full"]["table_10"]["decay"]["tests"]["paired_t"]["df"] == 5
    assert content["paper"]["1024"]["decay"] == 0.3408
    assert "never trained" in content["notes"][0]
    assert "scipy" in content["versions"]
    assert (tmp_path / "out" / "attention.png").stat().st_size > 10_000


def test_a_model_against_itself_has_an_input_effect_and_no_model_effect(evaluate: Any, arms: dict[str, Path]) -> None:
    content = evaluate("attention", *SMALL, baseline=arms["meap"])
    for row in content["headline"]["by_length"].values():
        assert row["model"]["decay"] == row["model"]["variance_increase"] == 0
        assert row["model"]["decay_t"] is None
        assert row["table_10"] == row["input"] and row["input"]["decay"] != 0


def test_a_model_that_attends_equally_has_no_decay_at_all(
    evaluate: Any, arms: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    flat = Path(shutil.copytree(arms["meap"], tmp_path / "flat"))
    model = AutoModelForCausalLM.from_pretrained(flat)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    model.save_pretrained(flat)
    content = evaluate("attention", "--lengths", "16", "--limit", "2", model=flat, baseline=flat)
    (row,) = content["headline"]["by_length"].values()
    assert row["table_10"]["decay"] == row["table_10"]["variance_increase"] == 0
    # a[j] = (1/(j+1) + ... + 1/16) / 16 for uniform attention.
    a = np.cumsum(1 / np.arange(16, 0, -1))[::-1] / 16
    (first, _) = samples_of("attention", tmp_path / "out")
    masked = _masked(content, first)
    assert first["attention"]["meap_masked"]["full"]["masked"] == pytest.approx(a[masked].mean(), rel=1e-6)


def test_a_killed_analysis_goes_on_and_gives_the_same_numbers(
    evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate("attention", *SMALL, out="whole")
    observe, calls = attention_observe.observe, []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4 * 3 + 2:  # in the second cell of the fourth sequence
            raise KeyboardInterrupt
        return observe(*args, **kwargs)

    monkeypatch.setattr(attention_observe, "observe", dying)
    evaluate("attention", *SMALL, status=130)
    resumed = evaluate("attention", *SMALL)
    assert resumed["requests"] == {"known": 3, "asked": 9}
    assert len(calls) == 4 * 3 + 2 + 4 * 9  # nothing that was known is computed again
    assert resumed["analysis"] == whole["analysis"]
    assert evaluate("attention", *SMALL) == resumed
    assert "finished already" in capsys.readouterr().err
    evaluate("attention", *SMALL, "--mask-ratio", "0.3", status=2)
    assert "of other settings" in capsys.readouterr().err
    assert evaluate("attention", *SMALL, "--overwrite")["requests"] == {"known": 0, "asked": 12}
    assert not list((tmp_path / "out").glob(".*"))


def test_lengths_above_the_limit_are_counted_or_refused(
    evaluate: Any, arms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = Path(shutil.copytree(arms["ntp"], tmp_path / "short"))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1500}))
    content = evaluate("attention", "--limit", "1", baseline=short)  # the paper's lengths, 1,024 and 4,096
    assert [(task["samples"], task["unfit"]) for task in content["tasks"]] == [(1, 0), (1, 1)]
    assert "1 of 1 sample not scored" in capsys.readouterr().out
    evaluate("attention", "--lengths", "1600", "--limit", "1", baseline=short, out="other", status=2)
    assert "length 1600 is above the limit of 1500 tokens" in capsys.readouterr().err


def test_an_ntp_model_without_a_row_for_the_mask_token_is_not_run_on_masked_input(
    evaluate: Any, arms: dict[str, Path], tmp_path: Path
) -> None:
    bare = write_arm(tmp_path / "bare", arms["tokenizer"], seed=3, vocab_size=MASK_ID)
    content = evaluate("attention", *SMALL, baseline=bare)
    assert content["notes"] == ["the NTP model has 512 token rows and none for [MASK]: it was not run on masked input"]
    assert {(cell["arm"], cell["input"]) for cell in content["cells"]} == {
        ("ntp", "clean"),
        ("meap", "clean"),
        ("meap", "masked"),
    }


def test_wrong_inputs_are_refused_with_the_reason(
    evaluate: Any, arms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str, suite: str = "attention", **changed: Any) -> str:
        evaluate(suite, *options, status=2, **changed)
        return capsys.readouterr().err

    assert "give the one trained with NTP as --baseline" in refusal(baseline=None)
    assert "give the one trained with NTP as --baseline" in refusal(suite="regions", baseline=None)
    assert "model nowhere is not a folder" in refusal(baseline="nowhere")
    assert "attention reads packed blocks of text" in refusal(text=None)
    assert "neither an indexed dataset" in refusal(text="nowhere")
    assert "--mask-ratio must be between 0 and 1, found 1.5" in refusal("--mask-ratio", "1.5")
    assert "attention needs sequences of at least 16 tokens" in refusal("--lengths", "8")
    assert "blocks of 2,000 tokens, 500 were asked for" in refusal("--lengths", "2000")
    assert "--eos-token '<end>' is not a token" in refusal("--eos-token", "<end>", suite="regions")

    other = write_tokenizer(
        tmp_path / "other", write_byte_tokenizer(tmp_path / "bytes", vocab_size=400, texts=("a b c",))
    )
    stranger = write_arm(tmp_path / "stranger", other, seed=1)
    assert "the two must read the same tokens" in refusal(*SMALL, baseline=stranger)
    unmasked = write_arm(tmp_path / "unmasked", arms["tokenizer"], seed=2, vocab_size=MASK_ID)
    assert "knows no [MASK]: it cannot have been trained with MEAP" in refusal(*SMALL, model=unmasked)

    pair = {name: Path(shutil.copytree(arms[name], tmp_path / name)) for name in ("meap", "ntp")}
    for name, ratio in (("meap", 0.15), ("ntp", 0.0)):
        record = {"format_version": 1, "add_bos": False, "mask_ratio": ratio}
        (pair[name] / bos.FILE_NAME).write_text(json.dumps(record))
    assert "exchange --model and --baseline" in refusal(*SMALL, model=pair["ntp"], baseline=pair["meap"])


@pytest.mark.parametrize("add_bos", [True, False])
def test_regions_of_the_papers_texts_and_of_templates(
    evaluate: Any, arms: dict[str, Path], tmp_path: Path, add_bos: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    content = evaluate("regions", "--limit", "24", "--bos" if add_bos else "--no-bos")
    assert [(task["task"], task["samples"]) for task in content["tasks"]] == [
        ("regions_paper", 4),
        ("regions_templated", 24),
    ]
    assert content["headline"]["paper_texts"].keys() == {item.name for item in PAPER_ITEMS}
    for sample in samples_of("regions", tmp_path / "out"):
        for arm in ("meap", "ntp"):
            assert all(sum(values) == pytest.approx(1) for values in sample["shares"][arm].values())
    for variant in content["analysis"]["regions_templated"].values():
        assert variant.keys() == set(REGIONS)
        assert sum(region["difference"] for region in variant.values()) == pytest.approx(0, abs=1e-9)
    answer = content["headline"]["templated"]["answer"]
    assert answer["difference"] == pytest.approx(content["tasks"][1]["metrics"]["answer_gain"]["mean"])
    assert answer["p"] is not None
    assert content["ends"] == {"meap": "</s>", "ntp": "</s>"}
    assert content["baseline"]["bos"]["add_bos"] is add_bos
    assert (tmp_path / "out" / "regions.png").stat().st_size > 10_000
    assert "regions_templated" in capsys.readouterr().out
    assert evaluate("regions", "--limit", "24", "--bos" if add_bos else "--no-bos") == content


def test_the_token_that_ends_the_text_can_be_chosen(evaluate: Any) -> None:
    content = evaluate("regions", "--limit", "1", "--eos-token", "<s>")
    assert content["ends"] == {"meap": "<s>", "ntp": "<s>"}


def test_all_runs_the_comparisons_only_where_there_is_a_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    from meap_megatron.evaluation import run

    asked: list[list[str]] = []
    monkeypatch.setattr(run, "evaluate", lambda request, names: asked.append(list(names)) or [])
    assert main(["evaluate", "all", "--model", "m"]) == 0
    assert main(["evaluate", "all", "--model", "m", "--baseline", "b"]) == 0
    assert {"attention", "regions"}.isdisjoint(asked[0]) and {"attention", "regions"} < set(asked[1])
    assert VOCABULARY > MASK_ID
