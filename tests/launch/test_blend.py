"""`data_path` is understood in every spelling that Megatron or people use."""

from pathlib import Path

import pytest

from meap_megatron.launch.blend import entries_of, spelled_out
from meap_megatron.launch.recipe import load


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mid", "mid2", "a b", "odd.bin"):
        (tmp_path / f"{name}.idx").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mid", ["mid"]),
        (["mid", "mid2"], ["mid", "mid2"]),
        ([0.3, "mid", 0.7, "mid2"], ["0.3", "mid", "0.7", "mid2"]),
        ("0.3 mid 0.7 mid2", ["0.3", "mid", "0.7", "mid2"]),
        ("mid.bin", ["mid"]),
        ("mid.idx", ["mid"]),
        ("mid.meap.json", ["mid"]),
        ("0.3 mid.bin 0.7 mid2.idx", ["0.3", "mid", "0.7", "mid2"]),
        ("a b", ["a b"]),
        ("a b.bin", ["a b"]),
        ("odd.bin", ["odd.bin"]),
        ("gone.bin", ["gone.bin"]),
    ],
)
def test_every_spelling_gives_prefixes_and_weights(here: Path, given: object, words: list[str]) -> None:
    assert entries_of(given) == words


def test_a_command_line_is_spelled_out_too(here: Path) -> None:
    argv = ["--lr=1", "--data-path", "0.3 mid 0.7 mid2", "--train-data-path=mid.bin", "--bf16"]
    assert spelled_out(argv) == [
        "--lr=1",
        "--data-path",
        "0.3",
        "mid",
        "0.7",
        "mid2",
        "--train-data-path",
        "mid",
        "--bf16",
    ]


def test_an_override_may_be_megatrons_string(here: Path) -> None:
    from meap_megatron.launch.flags import read_flags

    (here / "r.yaml").write_text("lr: 1.0\n")
    recipe = load(here / "r.yaml", ["data_path=0.3 mid 0.7 mid2"])
    assert recipe.command_line(read_flags())[-5:] == ["--data-path", "0.3", "mid", "0.7", "mid2"]
