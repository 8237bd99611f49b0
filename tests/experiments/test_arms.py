"""Which arms there are, in which order, who may run one, and that the protocol says what the script does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import runs as shared
from experiments.retrieval_small import __main__ as script
from experiments.retrieval_small import plan
from experiments.retrieval_small.arms import Run, arm, main_runs, overrides, trial_runs
from experiments.retrieval_small.data import TRAIN_SHARE, num_train_rows
from experiments.runs import locked
from meap_megatron.errors import UserError
from meap_megatron.launch import recipe as recipes
from meap_megatron.launch.flags import read_flags

PROTOCOL = plan.PROTOCOL.read_text(encoding="utf-8")
REGISTERED = plan.REGISTERED


def runs(out: Path = Path("out"), record: Path = Path("record")) -> list[Run]:
    return main_runs(REGISTERED, out=out, record=record)


def test_the_primary_pairs_run_first_and_alternate() -> None:
    order = [(run.seed, run.ratio) for run in runs()]
    pairs = len(REGISTERED.seeds[0.0])
    assert order[:4] == [(1, 0.0), (1, 0.15), (2, 0.0), (2, 0.15)]
    assert order[2 * pairs - 1 : 2 * pairs + 2] == [(pairs, 0.15), (1, 0.05), (1, 0.30)]
    assert len(order) == len(set(order)) == REGISTERED.num_runs


def test_arms_of_a_seed_differ_in_the_ratio_only() -> None:
    ntp, meap = (recipes.load(plan.RECIPE, overrides(REGISTERED, run, prefix=Path("rows"))) for run in runs()[:2])
    assert meap.command_line(read_flags())
    changed = {key for key in ntp.settings if ntp.get(key) != meap.get(key)}
    assert changed == {"meap_mask_ratio"}
    assert ntp.get("train_iters") == REGISTERED.train_iters
    assert ntp.get("save_interval") * REGISTERED.looks == REGISTERED.train_iters


def test_the_trial_trains_ntp_alone_and_with_seeds_of_its_own() -> None:
    trial = trial_runs(REGISTERED, out=Path("out"), record=Path("record"))
    assert {run.ratio for run in trial} == {0.0}
    assert not {run.seed for run in trial} & {seed for seeds in REGISTERED.seeds.values() for seed in seeds}
    assert not {run.scores for run in trial} & {run.scores for run in runs()}


def test_no_row_is_read_twice() -> None:
    assert num_train_rows(REGISTERED) * TRAIN_SHARE > REGISTERED.train_iters * REGISTERED.batch_size * 1.005


def test_an_arm_stays_locked_while_a_trainer_lives_whose_parent_is_gone(tmp_path: Path) -> None:
    run = arm(0.0, 1, out=tmp_path, record=tmp_path)
    with locked(run.folder) as lock:
        assert lock is not None
        with locked(run.folder) as second:
            assert second is None
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with locked(run.folder) as later:
        assert later is None
    orphan.communicate(b"\n", timeout=30)
    with locked(run.folder) as free:
        assert free is not None


def test_the_protocol_names_the_numbers_of_the_script() -> None:
    per_step = REGISTERED.batch_size * REGISTERED.seq_length
    arms = re.findall(r"^\| (0|\.\d\d)(?: \(NTP\))? \| 1 to (\d+) \| (primary|secondary) \|$", PROTOCOL, flags=re.M)
    assert {float(ratio): tuple(range(1, int(last) + 1)) for ratio, last, _ in arms} == REGISTERED.seeds
    assert [float(ratio) for ratio, _, kind in arms if kind == "primary"] == [plan.NTP_RATIO, plan.MEAP_RATIO]
    few, many = REGISTERED.facts
    for said in (
        f"{REGISTERED.looks} checkpoints",
        f"{REGISTERED.num_keys} keys and {REGISTERED.num_values} values",
        f"A row is {REGISTERED.seq_length} tokens",
        f"{few} facts in one half of the rows, {many} in the other",
        f"**Rows with {many} facts are the primary stratum.**",
        f"{REGISTERED.rounds} rounds of questions",
        f"{REGISTERED.batch_size} rows a step ({per_step:,} tokens)",
        f"{REGISTERED.train_iters:,} steps ({REGISTERED.train_iters * per_step:,} tokens)",
        f"BPE of {REGISTERED.vocab_size:,} pieces",
        f"{REGISTERED.test_rows} rows of the primary stratum ({REGISTERED.test_rows * many:,} questions)",
        f"{2 ** len(REGISTERED.seeds[plan.MEAP_RATIO]):,} assignments",
        "seeds {} and {}, NTP alone".format(*REGISTERED.trial_seeds),
        f"accuracy of at least {REGISTERED.formed:.2f}".replace("0.", "."),
        f"at {REGISTERED.too_easy:.2f} or above at the first look".replace("0.", "."),
        f"every {REGISTERED.interval} steps",
        f"at least +{plan.SMALLEST_DIFFERENCE}".replace("0.", "."),
        f"level {plan.ALPHA}".replace("0.", "."),
    ):
        assert said in PROTOCOL, said


def test_the_later_protocol_names_the_numbers_of_its_plan() -> None:
    later = plan.PAST_PLATEAU
    page = later.protocol.read_text(encoding="utf-8")
    tokens = later.batch_size * later.seq_length
    long, distractors = later.probes
    seeds = later.seeds[plan.MEAP_RATIO]
    assert later.seeds == {plan.NTP_RATIO: seeds, plan.MEAP_RATIO: seeds}
    for said in (
        f"{later.train_iters:,} steps of {tokens} tokens, {later.train_iters * tokens:,} tokens",
        f"seeds {seeds[0]} to {seeds[-1]}",
        f"{2 ** len(seeds)} assignments",
        f"{later.test_rows} rows each",
        f"{long.length} tokens (trained on: {later.seq_length})",
        f"{later.looks} checkpoints, every {later.interval} steps",
        f"all {later.num_runs} runs",
    ):
        assert said in page, said
    assert (long.facts, long.distractors) == (4, 0) and (distractors.facts, distractors.distractors) == (4, 8)
    assert later.primary == "final" and not later.trial_seeds


def test_the_protocol_names_the_parameters_of_the_recipe() -> None:
    recipe = recipes.load(plan.RECIPE)
    names = "hidden_size num_layers num_attention_heads num_query_groups kv_channels ffn_hidden_size".split()
    width, layers, heads, groups, channels, ffn = (recipe.get(name) for name in names)
    layer = 2 * width * channels * (heads + groups) + 3 * width * ffn + 2 * width
    assert f"{2 * REGISTERED.vocab_size * width + layers * layer + width:,} parameters" in PROTOCOL
    assert f"{layers} layers, width {width}, FFN {ffn}, {heads} heads of {channels} channels" in PROTOCOL
    assert recipe.get("seq_length") == REGISTERED.seq_length
    assert recipe.get("global_batch_size") == REGISTERED.batch_size


def test_a_record_is_not_gone_on_with_under_another_protocol_or_on_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "git", lambda *words: "abc\n")
    rows = {"content_hash": "1"}
    shared.begin(tmp_path, label="smoke", protocol_sha256="a", data=rows)
    shared.begin(tmp_path, label="smoke", protocol_sha256="a", data=rows)
    with pytest.raises(UserError, match="begun otherwise: data was"):
        shared.begin(tmp_path, label="smoke", protocol_sha256="a", data={"content_hash": "2"})
    with pytest.raises(UserError, match="begun otherwise: protocol_sha256 was"):
        shared.begin(tmp_path, label="smoke", protocol_sha256="b", data=rows)


def test_an_arm_on_other_data_is_not_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", "--smoke", "--out", str(tmp_path), "--record", str(tmp_path / "record")]
    assert script.main(words) == 2
    assert "holds no finished arm" in capsys.readouterr().err
    (tmp_path / "record" / "scores").mkdir(parents=True)
    (tmp_path / "record" / "started.json").write_text('{"label": "smoke", "data": {"content_hash": "1"}}')
    scores = '{"ratio": 0.0, "seed": 1, "label": "smoke", "data": {"content_hash": "2"}}'
    (tmp_path / "record" / "scores" / "ratio-0.00-seed-1.json").write_text(scores)
    assert script.main(words) == 2
    assert "trained on other data than it was begun with: ratio 0.0 seed 1" in capsys.readouterr().err


def test_the_registered_experiment_does_not_run_on_uncommitted_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared, "git", lambda *words: " M plan.py\n")
    assert script.main(["run", "--out", str(tmp_path / "out"), "--record", str(tmp_path / "record")]) == 2
    assert "not committed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
