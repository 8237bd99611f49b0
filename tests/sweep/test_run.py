"""A sweep runs its arms through the real trainer, continues where they stopped, and survives the failure of one."""

import signal
from pathlib import Path

import pytest

from meap_megatron.sweep import plan, run
from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import TINY, losses, meap, records, train

SWEEP = """
recipe: {recipe}
save: {save}
settings: {{train_iters: 6, save_interval: 3, eval_interval: 6, split: "80,20,0"}}
arms:
  ntp: {{meap_mask_ratio: 0.0}}
  span5: {{meap_mask_ratio: 0.15, meap_mask_strategy: span, meap_span_length: 5}}
tables:
  - title: tiny
    columns: {{}}
    validation_loss: true
"""


def test_a_sweep_goes_on_with_unfinished_arms_and_skips_finished_ones(tmp_path: Path) -> None:
    recipes = Path(__file__).resolve().parents[2] / "examples" / "recipes"
    data = write_dataset(tmp_path, library_texts(300_000))
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(recipe=recipes / "tiny_cpu_ntp.yaml", save=tmp_path / "runs"))
    words = [*TINY, f"data_path={data}", "device=cpu"]

    # One arm was stopped at half way, the other one was not.
    first, second = plan.load(path, words).arms
    train("tiny_cpu_ntp.yaml", *first.overrides, "exit_interval=3")
    assert "# ntp: continues at step 3\nmeap train " in (dry := meap("sweep", path, *words, "--dry-run").stdout)
    assert "# span5: new" in dry
    train("tiny_cpu_ntp.yaml", *second.overrides)

    assert meap("sweep", path, *words).stdout.count("finished already") == 1
    ntp, span = first.save, second.save
    assert list(losses(ntp)) == list(losses(span)) == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records(ntp / "metrics.jsonl", "start")] == [0, 3]
    assert records(ntp / "metrics.jsonl", "start")[-1]["run"]["meap_mask_ratio"] == 0.0
    run_of_span = records(span / "metrics.jsonl", "start")[-1]["run"]
    assert [run_of_span[f"meap_{key}"] for key in ("mask_ratio", "mask_strategy", "span_length")] == [0.15, "span", 5]
    assert all(step["mask_fraction"] > 0.1 for step in records(span / "metrics.jsonl", "step"))

    before = {file: file.read_bytes() for file in (tmp_path / "runs").rglob("metrics.jsonl")}
    again = meap("sweep", path, *words)
    assert again.stdout.count("finished already") == 2
    assert {file: file.read_bytes() for file in before} == before

    shown = meap("sweep", "table", path).stdout.splitlines()
    validation = {
        name: records(folder / "metrics.jsonl", "validation")[-1] for name, folder in (("ntp", ntp), ("span5", span))
    }
    assert [cell.strip() for cell in shown[4].split("|")[1:-1]] == ["ntp", f"{validation['ntp']['lm_loss']:.3f}"]
    assert [cell.strip() for cell in shown[5].split("|")[1:-1]] == ["span5", f"{validation['span5']['lm_loss']:.3f}"]

    # Other settings in the same folder are another run.
    refused = meap("sweep", path, *words, "meap_mask_ratio=0.2", check=False)
    assert refused.returncode == 2 and "holds a run with meap_mask_ratio=0.0, and arm 'ntp' says 0.2" in refused.stderr


WAIT = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.5; done"


@pytest.fixture
def sweep(tmp_path: Path) -> plan.Sweep:
    (tmp_path / "s.yaml").write_text(f"recipe: r.yaml\nsave: {tmp_path}\narms: {{a: {{}}, b: {{}}, c: {{}}}}\n")
    return plan.load(tmp_path / "s.yaml", [])


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> Path:
    """Put a shell script in the place of the interpreter; it notes the arm it was started for."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\nfor save; do :; done\narm=${{save##*/}}\necho "$arm" >> {tmp_path}/started\n{body}\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(script))
    return tmp_path / "started"


@pytest.mark.parametrize(
    ("body", "finished", "status", "started"),
    [
        ("exit 0", set(), 0, "a b c"),
        ("exit 0", {"b"}, 0, "a c"),
        ('[ "$arm" != a ]', set(), 1, "a b c"),  # one arm fails, the others run
        ('[ "$arm" = a ] || exit 2', set(), 2, "a b"),  # refused input stops the sweep
        (
            # The signal reaches the arm, which ends by itself, and no other arm begins.
            f'[ "$arm" = a ] || {{ trap "echo saved >> $(dirname "$0")/started; exit 0" TERM; kill -TERM $PPID; {WAIT}; }}',
            set(),
            128 + signal.SIGTERM,
            "a b saved",
        ),
    ],
)
def test_what_ends_an_arm_decides_what_becomes_of_the_others(
    sweep: plan.Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    finished: set[str],
    status: int,
    started: str,
) -> None:
    notes = pretend(monkeypatch, tmp_path, body)
    assert run.run_arms(sweep, finished=finished) == status
    assert notes.read_text().split() == started.split()
    assert ("failed: a at step 0; the same command continues" in capsys.readouterr().err) == (status == 1)
