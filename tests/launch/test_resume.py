"""Before a run starts: finished runs, damaged checkpoints, and folders that are not the run's own."""

import os
from pathlib import Path

import pytest

from meap_megatron.checkpoint import manifest
from meap_megatron.checkpoint.folder import TRACKER, read_tracker, write_tracker
from meap_megatron.checkpoint.manifest import Manifest
from meap_megatron.errors import UserError
from meap_megatron.launch import optimizer_state, resume
from meap_megatron.launch.named_settings import Settings, of_command_line
from meap_megatron.launch.resume import LONGER
from meap_megatron.training.checkpoint_hooks import complete, make_room
from tests.checkpoint.checkpoint_samples import flip_a_byte, good_checkpoint, plain_checkpoint, unfinished_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    good_checkpoint(tmp_path / "run", 4)
    good_checkpoint(tmp_path / "run", 8)
    return tmp_path / "run"


def own(run: Path, *words: str) -> Settings:
    return of_command_line([f"--save={run}", f"--load={run}", *words])


def prepared(settings: Settings) -> list[str]:
    said: list[str] = []
    resume.prepare(settings, show=said.append)
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "words, finished",
    {
        ("--train-iters=8",): True,
        ("--train-iters", "8"): True,
        ("--train-iters=7",): True,
        ("--train-iters=9",): False,
        ("--train-iters=8", "--train-iters=9"): False,  # the last one counts, as in Megatron's parser
        ("--train-samples=64", "--global-batch-size=8"): True,
        ("--train-samples=71", "--global-batch-size=8"): True,
        ("--train-samples=72", "--global-batch-size=8"): False,
        ("--train-samples=64",): False,
        ("--train-samples=64", "--global-batch-size=8", "--rampup-batch-size", "2", "2", "16"): False,
        ("--train-iters=8", "--exit-interval=4"): True,
        ("--train-iters=8", "--finetune"): False,
        ("--train-iters=8", "--skip-train"): False,
        ("--train-iters=8", "--ckpt-step=4"): False,
        ("--train-iters=8", "--pretrained-checkpoint=elsewhere"): True,
        (): False,
    }.items(),
)
def test_a_run_is_finished_when_its_own_folder_holds_its_last_step(
    run: Path, words: tuple[str, ...], finished: bool
) -> None:
    assert (resume.finished(own(run, *words)) is not None) == finished


def test_only_the_run_that_saves_there_can_be_finished(run: Path, tmp_path: Path) -> None:
    assert resume.finished(of_command_line([f"--load={run}", "--train-iters=8"])) is None  # validates what it loads
    assert resume.finished(of_command_line([f"--load={run}", f"--save={tmp_path / 'new'}", "--train-iters=8"])) is None
    os.symlink(run, tmp_path / "link")
    said = resume.finished(of_command_line([f"--load={run}", f"--save={tmp_path / 'link'}", "--train-iters=8"]))
    assert said == f"complete at step 8 of 8; {LONGER}"


def test_an_unfinished_or_damaged_last_step_does_not_finish_a_run(run: Path) -> None:
    unfinished_checkpoint(run, 12)
    assert resume.finished(own(run, "--train-iters=12")) is None
    os.truncate(run / "iter_0000008" / ".metadata", 3)
    assert resume.finished(own(run, "--train-iters=8")) is None


def test_a_good_folder_is_left_as_it_is_and_nothing_is_said(run: Path) -> None:
    before = names(run)
    assert prepared(own(run)) == []
    assert names(run) == before


def test_a_damaged_checkpoint_is_named_kept_and_the_tracker_set_back(run: Path) -> None:
    flip_a_byte(run / "iter_0000008" / "__0_0.distcp")
    unfinished_checkpoint(run, 12)
    said = prepared(own(run))
    assert said[0].startswith(f"{run}: iter_0000012 is unfinished")
    assert said[1].startswith(f"{run}: iter_0000008 is damaged: __0_0.distcp: expected SHA-256 ")
    assert said[2] == "iter_0000008 is kept as damaged-iter_0000008"
    assert said[3].startswith("continuing from iter_0000004")
    assert names(run) == ["damaged-iter_0000008", "iter_0000004", "iter_0000012", TRACKER]
    assert read_tracker(run).iteration == 4


def test_the_level_decides_whether_contents_are_read(run: Path) -> None:
    flip_a_byte(run / "iter_0000008" / "__0_0.distcp")
    assert prepared(own(run, "--meap-check-checkpoint=sizes")) == []
    assert prepared(own(run, "--meap-check-checkpoint=full")) != []


def test_a_torn_tracker_is_mended(run: Path) -> None:
    (run / TRACKER).write_text("")
    assert prepared(own(run))[0] == f"{run}: {TRACKER} names no step"
    assert read_tracker(run).iteration == 8


def test_without_a_good_checkpoint_a_run_is_refused_unless_none_was_ever_finished(run: Path, tmp_path: Path) -> None:
    for step in (4, 8):
        (run / f"iter_{step:07d}" / ".metadata").unlink()
    before = names(run)
    with pytest.raises(UserError, match="iter_0000008 is damaged.*iter_0000004 is damaged"):
        prepared(own(run))
    assert names(run) == before
    unfinished_checkpoint(tmp_path / "new", 4)
    (tmp_path / "new" / TRACKER).write_text("4")  # killed between Megatron's last word and the manifest
    assert "starting again" in prepared(own(tmp_path / "new"))[-1]
    assert names(tmp_path / "new") == ["iter_0000004", f"unfinished-{TRACKER}"]
    write_tracker(tmp_path / "new", 20)
    with pytest.raises(UserError, match="names iter_0000020, which does not exist"):
        prepared(own(tmp_path / "new"))


@pytest.mark.parametrize("setting", ["load", "pretrained-checkpoint"])
def test_the_folder_of_another_run_is_read_but_never_changed(run: Path, tmp_path: Path, setting: str) -> None:
    argv = of_command_line([f"--save={tmp_path / 'new'}", f"--{setting}={run}"])
    assert prepared(argv) == []
    flip_a_byte(run / "iter_0000008" / "__0_0.distcp")
    before = names(run)
    with pytest.raises(UserError, match="__0_0.distcp: expected SHA-256 .*write 4 into .*to use iter_0000004"):
        prepared(argv)
    assert names(run) == before and read_tracker(run).iteration == 8


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        ("nowhere", "nowhere holds no checkpoint .*begin with random weights; name the `save` folder of a run"),
        ("empty", "empty holds no checkpoint"),
        ("run/iter_0000004", "name the folder that contains it, load=.*/run with ckpt_step=4"),
        ("file", "cannot read the checkpoint folder .*/file: Not a directory"),
    ],
)
def test_a_run_that_is_to_load_what_is_not_there_does_not_begin_with_random_weights(
    run: Path, tmp_path: Path, load: str, reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=reason):
        prepared(of_command_line([f"--save={tmp_path / 'new'}", f"--load={tmp_path / load}"]))


def test_a_first_start_finds_nothing_in_its_own_folder_or_begins_from_pretrained_weights(
    run: Path, tmp_path: Path
) -> None:
    assert prepared(own(tmp_path / "new")) == []
    elsewhere = [f"--save={tmp_path / 'a'}", f"--load={tmp_path / 'b'}", f"--pretrained-checkpoint={run}"]
    assert prepared(of_command_line(elsewhere)) == []


def test_one_step_asked_for_is_checked_alone(run: Path) -> None:
    flip_a_byte(run / "iter_0000004" / "__0_0.distcp")
    assert prepared(own(run, "--ckpt-step=8")) == []
    with pytest.raises(UserError, match="ckpt_step=4: .*iter_0000004 is damaged"):
        prepared(own(run, "--ckpt-step=4"))


def test_a_checkpoint_of_plain_megatron_is_loaded_if_its_index_is_whole(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, 4)
    plain_checkpoint(tmp_path, 8)
    assert prepared(own(tmp_path)) == []
    os.truncate(tmp_path / "iter_0000008" / "__0_0.distcp", 100)
    assert "continuing from iter_0000004" in prepared(own(tmp_path))[-1]


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--non-persistent-save-interval=5"], "no manifest to check them by"),
        (["--non-persistent-ckpt-type", "global"], "no manifest to check them by"),
        (["--save-retain-interval=5"], "meap_keep_checkpoints"),
        (["--meap-keep-checkpoints=1"], "at least 2"),
        (["--meap-keep-checkpoints", "-3"], "at least 2"),
    ],
)
def test_options_that_would_lose_the_last_good_checkpoint_are_refused(words: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        resume.check_flags(of_command_line(words))


def begun(step: int) -> Manifest:
    return Manifest(iteration=step, complete=False)


def test_a_save_keeps_what_another_run_saved_and_clears_what_was_broken_off(run: Path) -> None:
    make_room(run / "iter_0000008", begun(8), overwrite=False)
    assert names(run) == ["iter_0000004", "iter_0000008", TRACKER, "replaced-iter_0000008"]
    assert names(run / "iter_0000008") == [manifest.NAME]
    (run / "iter_0000008" / "__7_0.distcp").write_bytes(b"of a larger job")
    make_room(run / "iter_0000008", begun(8), overwrite=False)
    assert names(run / "iter_0000008") == [manifest.NAME]
    plain_checkpoint(run, 12)
    make_room(run / "iter_0000012", begun(12), overwrite=False)
    assert "replaced-iter_0000012" in names(run)


def test_the_manifest_holds_files_that_no_rank_has_seen(tmp_path: Path) -> None:
    checkpoint = plain_checkpoint(tmp_path, 4)
    seen = manifest.file_entries(checkpoint, [".metadata"])
    complete(checkpoint, begun(4), [seen, {}])
    known = manifest.read(checkpoint)
    assert known is not None and known.complete and set(known.files) == {".metadata", "__0_0.distcp", "metadata.json"}


def test_one_rank_of_512_lists_the_files_of_a_save_and_none_asks_for_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.distributed

    from meap_megatron.training.checkpoint_hooks import Saving

    world = 512
    checkpoint = plain_checkpoint(tmp_path, 4)
    for rank in range(world):
        for part in range(2):
            (checkpoint / f"__{rank}_{part}.distcp").write_bytes(b"%d" % rank)
    known: list[list[str]] = []
    gathered: list[object] = []
    asked = {"listings": 0, "sizes": 0}

    def broadcast(objects: list[list[str]], src: int) -> None:
        known.append(objects[0]) if not known else objects.__setitem__(0, known[0])

    def counting(name: str, real: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            asked[name] += 1
            return real(*args, **kwargs)  # type: ignore[operator]

        return call

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    monkeypatch.setattr(torch.distributed, "gather_object", lambda mine, to, dst: gathered.append(mine))
    monkeypatch.setattr("meap_megatron.training.checkpoint_hooks.complete", lambda *_: None)
    monkeypatch.setattr(os, "walk", counting("listings", os.walk))
    monkeypatch.setattr(os, "stat", counting("sizes", os.stat))
    saving = Saving()
    saving.folder = tmp_path
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        saving.end(begun(4), keep=None)
    assert asked == {"listings": 1, "sizes": 0}
    names = [name for share in gathered for name in share]  # type: ignore[attr-defined]
    assert sorted(names) == sorted(path.name for path in checkpoint.iterdir())


STATES = {
    "float32": ["exp_avg", "exp_avg_sq"],
    "16 bits": ["exp_avg", "exp_avg_sq", "fp32_param"],
    "distributed": ["exp_avg", "exp_avg_sq", "param"],
    "another optimizer's": ["momentum_buffer"],
}
RUNS = {"float32": [], "16 bits": ["--bf16"], "distributed": ["--bf16", "--use-distributed-optimizer"]}


@pytest.mark.parametrize("saved", STATES)
@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_compared_with_the_form_of_the_optimizer_state_that_it_continues_from(saved: str, run: str) -> None:
    names = ["decoder.layers.0.weight", *(f"optimizer.state.{name}.decoder.layers.0.weight" for name in STATES[saved])]
    there, here = (
        optimizer_state.form_of_checkpoint(names),
        optimizer_state.form_of_run(of_command_line(["--lr=1", *RUNS[run]])),
    )
    assert (there is None) == (saved not in RUNS)
    assert there is None or (there == here) == (saved == run)
