"""A run continues from what the tracker names, or from the newest good checkpoint before it."""

import os
from pathlib import Path

import pytest

from meap_megatron.checkpoint.choose import choose
from meap_megatron.checkpoint.folder import TRACKER, read_tracker, set_aside, write_tracker
from meap_megatron.checkpoint.retention import prune
from tests.checkpoint.checkpoint_samples import flip_a_byte, good_checkpoint, plain_checkpoint, unfinished_checkpoint


def present(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_the_newest_checkpoint_is_chosen_when_all_are_good(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        good_checkpoint(tmp_path, step)
    choice = choose(tmp_path, "full")
    assert (choice.iteration, choice.passed_over, choice.broken_off, choice.missing) == (12, [], [], None)


def test_damaged_and_unfinished_ones_are_passed_over_newest_first(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        good_checkpoint(tmp_path, step)
    flip_a_byte(tmp_path / "iter_0000012" / "__0_0.distcp")
    os.truncate(tmp_path / "iter_0000008" / ".metadata", 5)
    unfinished_checkpoint(tmp_path, 16)
    choice = choose(tmp_path, "full")
    assert choice.iteration == 4
    assert [found.checkpoint.name for found in choice.damaged] == ["iter_0000012", "iter_0000008"]
    assert [found.checkpoint.name for found in choice.broken_off] == ["iter_0000016"]


def test_a_tracker_set_back_by_hand_is_obeyed(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        good_checkpoint(tmp_path, step)
    write_tracker(tmp_path, 8)
    assert choose(tmp_path, "full").iteration == 8


@pytest.mark.parametrize("text", ["", "12x", "-1", "\x00\x00"])
def test_a_torn_or_missing_tracker_means_the_newest_good_one(tmp_path: Path, text: str) -> None:
    for step in (4, 8):
        good_checkpoint(tmp_path, step)
    (tmp_path / TRACKER).write_text(text)
    assert choose(tmp_path, "full").iteration == 8
    (tmp_path / TRACKER).unlink()
    assert choose(tmp_path, "full").iteration == 8


def test_a_tracker_that_names_nothing_there_falls_back_and_says_so(tmp_path: Path) -> None:
    good_checkpoint(tmp_path, 4)
    write_tracker(tmp_path, 8)
    choice = choose(tmp_path, "full")
    assert choice.iteration == 4 and choice.missing == tmp_path / "iter_0000008"


def test_the_tracker_of_released_weights_is_known(tmp_path: Path) -> None:
    (tmp_path / TRACKER).write_text("release\n")
    assert read_tracker(tmp_path).release and read_tracker(tmp_path).iteration is None


def test_what_is_set_aside_never_replaces_what_was_set_aside_before(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "iter_0000004").mkdir()
        (tmp_path / "iter_0000004" / "file").write_text(content)
        set_aside(tmp_path / "iter_0000004", "damaged")
    assert present(tmp_path) == ["damaged-2-iter_0000004", "damaged-iter_0000004"]
    assert (tmp_path / "damaged-iter_0000004" / "file").read_text() == "first"
    assert choose(tmp_path, "full").iteration is None


def test_pruning_keeps_the_newest_good_ones_and_all_that_it_cannot_vouch_for(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, 2)
    for step in (4, 8, 12, 16):
        good_checkpoint(tmp_path, step)
    os.truncate(tmp_path / "iter_0000012" / ".metadata", 5)
    unfinished_checkpoint(tmp_path, 14)
    assert prune(tmp_path, newest=16, keep=2) == [4]
    # 12 is damaged and does not count: 8 and 16 are the two good ones.
    assert present(tmp_path) == [f"iter_{step:07d}" for step in (2, 8, 12, 14, 16)]


def test_nothing_is_pruned_before_the_newest_is_whole_and_never_below_two(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        good_checkpoint(tmp_path, step)
    unfinished_checkpoint(tmp_path, 16)
    assert prune(tmp_path, newest=16, keep=2) == []
    with pytest.raises(ValueError, match="at least 2"):
        prune(tmp_path, newest=12, keep=1)
    assert prune(tmp_path, newest=8, keep=2) == []  # a run that was set back: 12 is not its business
    assert prune(tmp_path, newest=12, keep=2) == [4]


def test_what_a_killed_removal_left_is_removed_next_time(tmp_path: Path) -> None:
    for step in (4, 8):
        good_checkpoint(tmp_path, step)
    (tmp_path / "removed-iter_0000002").mkdir()
    assert prune(tmp_path, newest=8, keep=2) == []
    assert present(tmp_path) == ["iter_0000004", "iter_0000008"]
