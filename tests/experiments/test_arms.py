"""Which arms there are, in which order, who may run one, and that the protocol says what the script does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.retrieval_small import __main__ as script
from experiments.retrieval_small import plan
from experiments.retrieval_small.arms import Run, calibration_runs, locked, main_runs, overrides
from experiments.retrieval_small.data import TRAIN_SHARE, num_train_rows
from meap_megatron.demo.results import parameter_count
from meap_megatron.training import recipe as recipes
from meap_megatron.training.flags import read_flags

PROTOCOL = plan.PROTOCOL.read_text(encoding="utf-8")
REGISTERED = plan.REGISTERED


def test_the_primary_pairs_run_first_and_alternate() -> None:
    order = [(run.seed, run.ratio) for run in main_runs(REGISTERED, Path("out"))]
    assert order[:4] == [(1, 0.0), (1, 0.15), (2, 0.0), (2, 0.15)]
    assert order[14:18] == [(8, 0.0), (8, 0.15), (1, 0.05), (1, 0.30)]
    assert len(order) == len(set(order)) == REGISTERED.num_runs == 26


def test_arms_of_a_seed_differ_in_the_ratio_only() -> None:
    rung = REGISTERED.ladder[0]
    ntp, meap = (
        recipes.load(plan.RECIPE, overrides(REGISTERED, rung, run, prefix=Path("rows")))
        for run in main_runs(REGISTERED, Path("out"))[:2]
    )
    assert meap.command_line(read_flags())
    changed = {key for key in ntp.settings if ntp.get(key) != meap.get(key)}
    assert changed == {"meap_mask_ratio", "save"}
    assert ntp.get("train_iters") == 2000 and ntp.get("save_interval") == 100
    assert all(run.ratio == 0.0 for rung in REGISTERED.ladder for run in calibration_runs(REGISTERED, rung, Path("o")))


def test_no_row_is_read_twice() -> None:
    for rung in REGISTERED.ladder:
        assert num_train_rows(REGISTERED, rung) * TRAIN_SHARE > rung.train_iters * REGISTERED.batch_size * 1.005


def test_an_arm_stays_locked_while_a_trainer_lives_whose_parent_is_gone(tmp_path: Path) -> None:
    run = Run(ratio=0.0, seed=1, folder=tmp_path / "arm")
    with locked(run) as lock:
        assert lock is not None
        with locked(run) as second:
            assert second is None
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with locked(run) as later:
        assert later is None
    orphan.communicate(b"\n", timeout=30)
    with locked(run) as free:
        assert free is not None


def test_the_protocol_names_the_numbers_of_the_script() -> None:
    rungs = re.findall(r"^\| `(\w+)` \| ([\d, ]+) \| ([\d,]+) \| ([\d.]+) M \|$", PROTOCOL, flags=re.MULTILINE)
    per_step = REGISTERED.batch_size * REGISTERED.seq_length
    assert [(name, facts, steps, tokens) for name, facts, steps, tokens in rungs] == [
        (
            rung.name,
            ", ".join(map(str, rung.facts)),
            f"{rung.train_iters:,}",
            f"{rung.train_iters * per_step / 1e6:.1f}",
        )
        for rung in REGISTERED.ladder
    ]
    arms = re.findall(r"^\| (0|\.\d\d)(?: \(NTP\))? \| (\d) to (\d) \| (primary|secondary) \|$", PROTOCOL, flags=re.M)
    assert {float(ratio): tuple(range(int(a), int(b) + 1)) for ratio, a, b, _ in arms} == REGISTERED.seeds
    assert [float(ratio) for ratio, _, _, kind in arms if kind == "primary"] == [plan.NTP_RATIO, plan.MEAP_RATIO]
    for said in (
        f"{REGISTERED.looks} checkpoints",
        f"{REGISTERED.num_keys} keys and {REGISTERED.num_values} values",
        f"A row is {REGISTERED.seq_length} tokens",
        f"{REGISTERED.batch_size} rows a\nstep ({per_step:,} tokens)",
        f"BPE of {REGISTERED.vocab_size:,} pieces",
        f"{REGISTERED.test_rows} rows of the primary stratum",
        "Seeds {} and {}".format(*REGISTERED.calibration_seeds),
        f"at least {REGISTERED.formed:.2f}".replace("0.", "."),
        f"at {REGISTERED.too_easy:.2f} or above".replace("0.", "."),
        f"at least +{plan.SMALLEST_DIFFERENCE}".replace("0.", "."),
        f"level {plan.ALPHA}".replace("0.", "."),
    ):
        assert said in PROTOCOL, said


def test_the_protocol_names_the_parameters_of_the_recipe() -> None:
    recipe = recipes.load(plan.RECIPE)
    names = "hidden_size num_layers num_attention_heads num_query_groups ffn_hidden_size".split()
    settings = {name: recipe.get(name) for name in names} | {"padded_vocab_size": REGISTERED.vocab_size}
    assert f"{parameter_count(settings):,} parameters" in PROTOCOL
    assert recipe.get("seq_length") == REGISTERED.seq_length
    assert recipe.get("global_batch_size") == REGISTERED.batch_size


def test_a_folder_is_not_gone_on_with_under_another_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "git", lambda *words: "abc\n" if words[0] == "rev-parse" else "")
    words = ["run", "--smoke", "--out", str(tmp_path / "out")]
    assert script.main(words) == 2
    assert "first: python -m experiments.retrieval_small calibrate" in capsys.readouterr().err
    changed = tmp_path / "protocol.md"
    changed.write_text(PROTOCOL + "\nOne more arm.\n", encoding="utf-8")
    monkeypatch.setattr(plan, "PROTOCOL", changed)
    assert script.main(words) == 2
    assert "was begun otherwise: protocol_sha256 was" in capsys.readouterr().err


def test_the_registered_experiment_does_not_begin_on_uncommitted_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "git", lambda *words: " M plan.py\n")
    assert script.main(["run", "--out", str(tmp_path / "out")]) == 2
    assert "not committed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
