"""`meap demo --quick`, end to end: every stage, the numbers of the page, and that the page loads nothing."""

import json
import math
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from meap_megatron.cli.main import main
from meap_megatron.demo.run import OWN_NAMES
from meap_megatron.training.metrics import read_metrics

STEPS = 8


def meap(*words, cwd):
    """Run the console script in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "meap_megatron.cli.main", *words],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=570,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return (folder in which the demo was started, its output, its folder)."""
    folder = tmp_path_factory.mktemp("demo verb")  # with a space: commands on the page must survive it
    said = meap("demo", "--quick", "--steps", str(STEPS), "--out", "my demo", cwd=folder)
    return folder, said, folder / "my demo"


def records(out, arm, event, name="metrics.jsonl"):
    return [record for record in read_metrics(out / "runs" / arm / name) if record["event"] == event]


class Loads(HTMLParser):
    """Collects what a browser would fetch, and the text."""

    def __init__(self):
        super().__init__()
        self.fetched = []
        self.words = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [(tag, *pair) for pair in attrs if pair[0] in ("src", "href", "srcset", "data", "action")]
        if tag in ("script", "link", "iframe", "object", "img"):
            self.fetched.append((tag,))

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.slow
def test_both_arms_consumed_the_same_tokens_and_started_from_the_same_weights(finished):
    folder, _, out = finished
    steps = {arm: records(out, arm, "step") for arm in ("ntp", "meap")}
    tokens = {arm: [record["consumed_tokens"] for record in found] for arm, found in steps.items()}
    assert tokens["ntp"] == tokens["meap"] == [256 * number for number in range(1, STEPS + 1)]
    # The MEAP recipe with nothing masked is the NTP arm: same weights, same samples in the same order.
    words = ["meap_mask_ratio=0", "save=unmasked", "train_iters=8", "exit_interval=3"]
    meap("train", "my demo/recipes/meap.yaml", *words, cwd=folder)
    unmasked = [r for r in read_metrics(folder / "unmasked" / "metrics.jsonl") if r["event"] == "step"]
    assert [r["lm_loss"] for r in unmasked] == pytest.approx([r["lm_loss"] for r in steps["ntp"][:3]], rel=1e-5)
    assert steps["meap"][0]["lm_loss"] != pytest.approx(steps["ntp"][0]["lm_loss"], rel=1e-5)


@pytest.mark.slow
def test_the_drawn_sample_is_masked_as_the_arm_recorded(finished):
    _, _, out = finished
    # One index for the drawing and both arms: all three read the same samples.
    assert len({path.name for path in (out / "data" / "cache").rglob("*-train-description.txt")}) == 1
    sample = json.loads((out / "demo.json").read_text())["sample"]
    assert sum(cell["masked"] for cell in sample) == math.floor(64 * 0.15)
    assert {r["mask_fraction"] for r in records(out, "meap", "step")} == {9 / 64}
    assert {r["mask_fraction"] for r in records(out, "ntp", "step")} == {0.0}


@pytest.mark.slow
def test_the_page_holds_the_numbers_of_the_metrics_files(finished):
    _, said, out = finished
    page = (out / "index.html").read_text(encoding="utf-8")
    for arm in ("ntp", "meap"):
        last = records(out, arm, "validation")[-1]
        assert last["step"] == STEPS
        assert f"<b>{last['lm_loss']:.3f}</b>" in page
        assert f"{last['lm_loss']:.3f}" in said
        (masked,) = records(out, arm, "validation", "masked_validation.jsonl")
        for field in ("lm_loss", "masked_loss", "other_loss"):
            assert f"<td>{masked[field]:.3f}</td>" in page
    assert f"{256 * STEPS:,} tokens each" in page


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
def test_the_command_to_go_on_with_is_one_that_the_trainer_takes(finished):
    folder, said, _ = finished
    line = next(line for line in said.splitlines() if line.strip().startswith("meap train"))
    assert "'my demo/recipes/meap.yaml'" in line
    printed = subprocess.run(
        f"{sys.executable} -m meap_megatron.cli.main {line.strip().removeprefix('meap ')} --dry-run",
        shell=True,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert printed.returncode == 0, printed.stderr
    assert "--meap-mask-ratio=0.15" in printed.stdout and "--data-path data/mine" in printed.stdout


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 2
    assert "is not empty; give another folder, or --overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "demo").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "demo"), "--overwrite"]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


def test_zero_steps_are_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["demo", "--steps", "0", "--out", str(tmp_path / "demo")]) == 2
    assert "--steps is 0" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_overwrite_removes_what_a_demo_wrote_and_nothing_else(tmp_path):
    from meap_megatron.demo.run import make_room

    for name in OWN_NAMES:
        path = tmp_path / name
        path.write_text("old") if "." in name else (path / "inner").mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("mine")
    make_room(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
