"""`meap demo --quick`, end to end: every stage, the numbers of the pages, that they load nothing, the exported models."""

import json
import math
import shlex
from html.parser import HTMLParser

import pytest

from meap_megatron.cli.main import main
from meap_megatron.demo import retrieval, stages
from meap_megatron.demo.screen import Screen
from meap_megatron.demo.sizes import QUICK
from meap_megatron.training.metrics import read_metrics
from tests.support.runs import meap

STEPS = 8


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return (folder in which the demo was started, its output, its folder)."""
    folder = tmp_path_factory.mktemp("demo verb")  # with a space: commands on the page must survive it
    said = meap("demo", "--quick", "--steps", str(STEPS), "--out", "my demo", cwd=folder).stdout
    return folder, said, folder / "my demo"


def records(out, arm, event, name="metrics.jsonl"):
    return [record for record in read_metrics(out / "runs" / arm / name) if record["event"] == event]


class Loads(HTMLParser):
    """Collects what a browser would fetch without being asked, and the text."""

    def __init__(self):
        super().__init__()
        self.fetched = []
        self.words = []

    def handle_starttag(self, tag, attrs):
        named = ("src", "srcset", "data", "action", *(("href",) if tag != "a" else ()))
        self.fetched += [(tag, *pair) for pair in attrs if pair[0] in named]
        if tag in ("script", "link", "iframe", "object", "img"):
            self.fetched.append((tag,))

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.slow
def test_both_arms_consumed_the_same_tokens_and_started_from_the_same_weights(finished):
    folder, _, out = finished
    steps = {arm: records(out, arm, "step") for arm in ("ntp", "meap")}
    tokens = {arm: [record["consumed_tokens"] for record in found] for arm, found in steps.items()}
    assert tokens["ntp"] == tokens["meap"] == [512 * number for number in range(1, STEPS + 1)]
    # The MEAP recipe with nothing masked is the NTP arm: same weights, same samples in the same order.
    words = ["meap_mask_ratio=0", "save=unmasked", "train_iters=8", "exit_interval=3"]
    meap("train", "my demo/recipes/meap.yaml", *words, cwd=folder)
    unmasked = [r for r in read_metrics(folder / "unmasked" / "metrics.jsonl") if r["event"] == "step"]
    assert [r["lm_loss"] for r in unmasked] == pytest.approx([r["lm_loss"] for r in steps["ntp"][:3]], rel=1e-5)
    assert steps["meap"][0]["lm_loss"] != pytest.approx(steps["ntp"][0]["lm_loss"], rel=1e-5)


@pytest.mark.slow
def test_the_drawn_sample_is_masked_as_the_arm_recorded(finished):
    _, said, out = finished
    # One index for the drawing and both arms: all three read the same samples.
    assert len({path.name for path in (out / "data" / "cache").rglob("*-train-description.txt")}) == 1
    num_masked = math.floor(512 * 0.15)
    assert f"{num_masked} of 512 input tokens masked" in said
    assert {r["mask_fraction"] for r in records(out, "meap", "step")} == {num_masked / 512}
    assert {r["mask_fraction"] for r in records(out, "ntp", "step")} == {0.0}


@pytest.mark.slow
def test_the_page_holds_the_numbers_of_the_metrics_files(finished):
    _, said, out = finished
    page = (out / "index.html").read_text(encoding="utf-8")
    for arm in ("ntp", "meap"):
        last = records(out, arm, "validation")[-1]
        assert last["step"] == STEPS
        assert f"<td>{last['lm_loss']:.3f}</td>" in page.split("<h2>Training</h2>")[1]
        assert f"{last['lm_loss']:.3f}" in said
        (masked,) = records(out, arm, "validation", "masked_validation.jsonl")
        for field in ("lm_loss", "masked_loss", "other_loss"):
            assert f"<td>{masked[field]:.3f}</td>" in page
    assert f"{512 * STEPS:,} tokens each" in page


@pytest.mark.slow
def test_the_page_loads_nothing(finished):
    _, _, out = finished
    page = (out / "index.html").read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(page)
    assert loads.fetched == []
    assert "url(" not in page and "@import" not in page and "http" not in page
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.slow
def test_both_arms_were_asked_the_same_questions_and_their_scores_stand_beside_the_floor(finished):
    _, said, out = finished
    page = (out / "index.html").read_text(encoding="utf-8")
    documents = [json.loads((out / "hf" / arm / "evaluation" / "needle.json").read_text()) for arm in ("ntp", "meap")]
    assert documents[0]["tasks"][0]["prompts_sha256"] == documents[1]["tasks"][0]["prompts_sha256"]
    assert documents[0]["model"]["fingerprint"] != documents[1]["model"]["fingerprint"]
    for name, content in zip(("NTP", "MEAP"), documents, strict=True):
        assert (content["samples"], content["unfit"], content["bos"]["source"]) == (12, 0, "meap_eval.json")
        floor = content["tasks"][0]["metrics"]["no_needle_recall"]["mean"]
        assert f"<td>{100 * floor:.2f}" in page.split("no needle (floor)")[1].split(f"<td>{name}</td>")[1]
        assert f"needle in a haystack, {name}" in page
    # Nine samples have a needle; both models answer at the floor, or in code.
    verdict = page.split("<h2>Verdicts</h2>")[1].split("</table>")[0]
    assert "against NTP" in verdict and "<td>9</td>" in verdict
    assert retrieval.EXPECTED[:40] in page and "%|" not in said


@pytest.mark.slow
def test_an_exported_arm_loads_with_transformers_and_never_generates_the_mask_token(finished):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, _, out = finished
    folder = out / "hf" / "meap"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = "".join(json.loads(line)["text"] for line in (out / "corpus" / "stdlib.jsonl").open(encoding="utf-8"))
    ids = tokenizer(text[:20_000], add_special_tokens=False, return_tensors="pt", verbose=False).input_ids[0]
    prompts = torch.nn.functional.pad(ids[: 200 * 16].view(200, 16), (1, 0), value=tokenizer.bos_token_id)

    def generated(**options):
        said = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=24, do_sample=False, **options
        )
        return said[:, prompts.shape[1] :]

    assert tokenizer.decode([tokenizer.mask_token_id]) == "[MASK]"
    assert not (generated() == tokenizer.mask_token_id).any()
    # Nor where the model prefers it to every other token, which it then says unless it is told not to.
    with torch.no_grad():
        model.lm_head.weight[tokenizer.mask_token_id] = 2 * model.lm_head.weight[int(generated().mode().values[0])]
    assert not (generated() == tokenizer.mask_token_id).any()
    assert (generated(suppress_tokens=None) == tokenizer.mask_token_id).any()


def test_without_the_packages_of_the_evaluation_the_demo_says_in_one_line_how_to_get_them(
    tmp_path, monkeypatch, capsys
):
    for arm in ("ntp", "meap"):
        (tmp_path / "runs" / arm).mkdir(parents=True)
        (tmp_path / "runs" / arm / "metrics.jsonl").write_text('{"event": "start", "step": 0, "run": {}}\n')
    verbs = []
    monkeypatch.setattr(stages, "run_side_by_side", lambda arms, **_: verbs.extend(arm.arguments[0] for arm in arms))
    monkeypatch.setattr(retrieval, "NEEDED", ("json", "lm_eval_that_is_not_there"))
    record = {"retrieval": ""}
    runs = stages.evaluate(Screen(2), tmp_path, QUICK, record=record, threads=1)
    assert verbs == ["convert", "convert"] and not any(found.documents for found in runs)
    line = "retrieval evaluation skipped, lm_eval_that_is_not_there not installed: pip install 'meap-megatron[eval]'"
    assert line in capsys.readouterr().out.replace("\n", " ") and record["retrieval"] == line


@pytest.mark.slow
def test_the_command_to_go_on_with_is_one_that_the_trainer_takes(finished):
    folder, said, _ = finished
    line = next(line for line in said.splitlines() if line.strip().startswith("meap train"))
    assert "'my demo/recipes/meap.yaml'" in line
    printed = meap(*shlex.split(line)[1:], "--dry-run", cwd=folder)
    assert "--meap-mask-ratio=0.15" in printed.stdout and "--data-path data/mine" in printed.stdout


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 2
    assert "is not empty\n  fix: give another folder, or --overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "demo").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "demo"), "--overwrite"]) == 2
    assert "is a file\n  fix: give a folder" in capsys.readouterr().err


def test_zero_steps_are_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["demo", "--steps", "0", "--out", str(tmp_path / "demo")]) == 2
    assert "--steps is 0" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
