"""Measures of the models at the end of an experiment, by seed and by pair."""

from pathlib import Path

import pytest

from experiments import secondary


def test_numbers_of_a_headline_have_dotted_names_and_intervals_give_their_mean() -> None:
    headline = {
        "metric": "decay",
        "percent": False,
        "bits_per_byte": 2.5,
        "copy_gain": {"2": {"n": 7, "mean": 0.25, "low": 0.1, "high": 0.4}, "4": None},
        "by_length": {"128": {"model": {"decay": 0.1, "decay_t": -3.0, "decay_p": 0.01}}},
    }
    assert secondary.numbers(headline) == {
        "bits_per_byte": 2.5,
        "copy_gain.2": 0.25,
        "by_length.128.model.decay": 0.1,
    }


def test_pairs_are_the_seeds_that_both_arms_have(tmp_path: Path) -> None:
    for name in ("ntp-seed-1", "ntp-seed-2", "mask15-seed-2", "mask15-seed-10", "ntp-seed-10", "tuned-seed-1"):
        (tmp_path / name).mkdir()
    assert secondary.seeds_of(tmp_path, "ntp", "mask15") == [2, 10]
    assert secondary.seeds_of(tmp_path, "ntp", "other") == []


def test_the_table_has_differences_of_models_and_the_values_of_pairs() -> None:
    found = {
        seed: {
            "text-loss": {"ntp": {"loss": 3.0}, "mask15": {"loss": 3.0 + 0.1 * seed}},
            "attention": {"pair": {"decay": 0.2 * seed}},
        }
        for seed in (1, 2)
    }
    lines = secondary.table(found, model="mask15", baseline="ntp").splitlines()
    assert lines[2].startswith("| text-loss | loss | 3.0000 | 3.1500 | +0.150 [")
    assert lines[3].startswith("| attention | decay |  |  | +0.300 [")


def test_what_is_not_there_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--arms {tmp_path} --baseline ntp --model mask15 --text x --record {tmp_path}".split()
    assert secondary.main(words) == 2
    assert "has no seed of both ntp and mask15" in capsys.readouterr().err
    assert secondary.main([*words, "--suites", "text-loss,heads2"]) == 2
    assert "there is no suite 'heads2'" in capsys.readouterr().err
    (tmp_path / "ntp-seed-1").mkdir()
    (tmp_path / "mask15-seed-1").mkdir()
    assert secondary.main(words) == 2
    assert "neither run/ nor hf/" in capsys.readouterr().err


def test_the_record_has_the_whole_names_of_its_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arm in ("ratio-0.00", "ratio-0.15"):
        for seed in (1, 2):
            (tmp_path / "arms" / f"{arm}-seed-{seed}").mkdir(parents=True)
    monkeypatch.setattr(secondary, "measure", lambda args, seed: {"attention": {"pair": {"decay": seed / 10}}})
    words = ["--arms", str(tmp_path / "arms"), "--baseline", "ratio-0.00", "--model", "ratio-0.15", "--text", "t"]
    assert secondary.main([*words, "--record", str(tmp_path / "record")]) == 0
    names = sorted(path.name for path in (tmp_path / "record").iterdir())
    assert names == ["ratio-0.15-ratio-0.00.json", "ratio-0.15-ratio-0.00.md"]
