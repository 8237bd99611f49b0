"""kill -9 at any moment, a dying worker, a full disk: an error or a resume, never a wrong or half-written dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.merge import merge
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.verify import adopt
from meap_megatron.errors import RunError, UserError
from meap_megatron.indexed.sidecar import check_prefix
from meap_megatron.tokenizer.load import load_tokenizer
from tests.corpus.corpus_samples import check_kills, config, content, documents, names, sample_texts, write_jsonl
from tests.corpus.sft.sft_samples import alpaca
from tests.corpus.sft.sft_samples import config as sft_config
from tests.support.conversations import write_rows
from tests.support.kills import finishes_before_step

FINISHED = ["out.bin", "out.idx", "out.meap.json", "out.tokenizer"]


def test_a_kill_before_any_single_file_operation_is_resumed_to_the_same_bytes(
    tmp_path: Path, word_tokenizer: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a b c d " * 3] * 6)

    def make(folder: Path, **more: Any) -> None:
        preprocess(config(source, folder / "out", word_tokenizer, workers=1, shard_bytes=100, **more))

    def killed(folder: Path) -> None:
        if names(folder):
            with pytest.raises(UserError, match="--overwrite"):
                make(folder)

    check_kills(tmp_path, make, killed=killed)


@pytest.mark.parametrize("kinds", ["text over text", "text over sft", "sft over text"])
def test_a_killed_replacement_leaves_all_of_the_old_dataset_or_all_of_the_new_one(
    tmp_path: Path, word_tokenizer: Path, kinds: str
) -> None:
    made = dict.fromkeys(("new", "old"), tmp_path)
    for name, kind in zip(made, kinds.split(" over "), strict=True):
        made[name] = tmp_path / name
        make, source = (preprocess_sft, chats) if kind == "sft" else (preprocess, write_jsonl)
        make(settings_of(kind, source(tmp_path / f"{name}.jsonl", [name, "a b"]), made[name] / "out", word_tokenizer))
    (made["old"] / "out.tokenizer" / "vocab.txt").write_text("only the old one has it")
    merge(tmp_path / "expected" / "out", [str(made["new"] / "out")])
    old, new = content(made["old"]), content(tmp_path / "expected")
    seen = []
    for step in range(100):
        folder = tmp_path / "killed"
        shutil.copytree(made["old"], folder)
        replace = partial(merge, folder / "out", [str(made["new"] / "out")], overwrite=True)
        finished = finishes_before_step(replace, folder, step)
        check_prefix(folder / "out")  # as everything does that opens a dataset
        found = content(folder)
        assert found in (old, new), f"killed before file operation {step}"
        seen.append(found == new)
        replace()
        assert content(folder) == new and names(folder) == names(tmp_path / "expected")
        shutil.rmtree(folder)
        if finished:
            break
    assert seen == sorted(seen) and 5 < seen.count(False) and 5 < seen.count(True)


def test_a_killed_replacement_of_tokenizer_and_sidecar_leaves_the_old_or_the_new_ones(
    tmp_path: Path, word_tokenizer: Path
) -> None:
    source = tmp_path / "source"
    preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["a b"]), source / "out", word_tokenizer))
    old = content(source)
    definition = json.loads((word_tokenizer / "tokenizer.json").read_text())
    definition["model"]["vocab"]["z"] = 7
    (word_tokenizer / "tokenizer.json").write_text(json.dumps(definition))
    seen = []
    for step in range(100):
        folder = tmp_path / "killed"
        shutil.copytree(source, folder)
        finished = finishes_before_step(
            partial(adopt, folder / "out", tokenizer=str(word_tokenizer), overwrite=True), folder, step
        )
        fingerprint = check_prefix(folder / "out").tokenizer.fingerprint
        assert load_tokenizer(folder / "out.tokenizer").info.fingerprint == fingerprint, f"step {step}"
        seen.append(content(folder) != old)
        shutil.rmtree(folder)
        if finished:
            break
    assert seen == sorted(seen) and 3 < seen.count(False) and 3 < seen.count(True)


def test_a_replacement_that_this_process_may_not_finish_says_who_can(
    tmp_path: Path, word_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess(config(write_jsonl(tmp_path / "in.jsonl", ["a b"]), tmp_path / "out", word_tokenizer))
    (tmp_path / ".out.new").mkdir()
    for name, text in {".superseded.json": "[]", "out.meap.json": "{}"}.items():
        (tmp_path / ".out.new" / name).write_text(text)

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UserError, match=r"replacement of .*/out was interrupted.*\(Permission denied\).*meap verify"):
        check_prefix(tmp_path / "out")


def chats(path: Path, texts: list[str]) -> Path:
    return write_rows(path, [alpaca(text, text) for text in texts])


def settings_of(kind: str, source: Path, output: Path, tokenizer: Path) -> Any:
    return (sft_config if kind == "sft" else config)(source, output, tokenizer)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "meap_megatron.cli.main", "preprocess", "text", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def manifest_lines(folder: Path) -> int:
    path = folder / "out.parts" / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("lines", [1, 15])
def test_kill_9_of_a_run_with_workers_is_resumed_to_the_same_bytes(
    tmp_path: Path, bpe_tokenizer: Path, lines: int
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(600))
    reference = tmp_path / "reference"
    preprocess(config(source, reference / "out", bpe_tokenizer, workers=1, shard_bytes=10_000))
    run = tmp_path / "run"
    arguments = [str(source), "-t", str(bpe_tokenizer), "-o", str(run / "out")]
    arguments += ["--workers", "2", "--shard-size", "10000"]
    process = start(arguments)
    while manifest_lines(run) < lines and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    before = manifest_lines(run)
    assert before >= lines, "the run ended before it was killed"
    resumed = start([*arguments, "--resume"])
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    assert f"resume: {before - 1} of" in said or before == 1
    assert content(run) == content(reference)
    assert names(run) == FINISHED


def test_a_killed_worker_ends_the_run_with_an_error_that_names_it(tmp_path: Path, bpe_tokenizer: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(300) * 60)
    arguments = [str(source), "-t", str(bpe_tokenizer), "-o", str(tmp_path / "out"), "--encoder", "tokenizers"]
    process = start([*arguments, "--workers", "2", "--shard-size", "1M"])
    victim = None
    while victim is None and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                victim = int(child)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in said and f"process {victim}" in said and "--resume" in said
    assert not set(FINISHED) & set(names(tmp_path))


def test_no_worker_outlives_a_killed_parent(tmp_path: Path, bpe_tokenizer: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(300) * 60)
    arguments = [str(source), "-t", str(bpe_tokenizer), "-o", str(tmp_path / "out"), "--encoder", "tokenizers"]
    process = start([*arguments, "--workers", "2", "--shard-size", "1M"])
    while manifest_lines(tmp_path) < 2 and process.poll() is None:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60

    def alive(child: str) -> bool:
        try:
            return ") Z " not in Path(f"/proc/{child}/stat").read_text()
        except OSError:
            return False

    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, workers))


@pytest.mark.parametrize("limit", [2_000, 40_000])
def test_a_full_disk_is_an_error_that_can_be_resumed(tmp_path: Path, bpe_tokenizer: Path, limit: int) -> None:
    """A limit on the size of a file acts as the full disk: in a shard (2,000 bytes), in the final .bin (40,000)."""
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(200))
    arguments = [str(source), "-t", str(bpe_tokenizer), "-o", str(tmp_path / "out"), "--shard-size", "15000"]
    script = f"""
import resource, sys
import meap_megatron.corpus.dataset_work as dataset_work
from meap_megatron.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
dataset_work.save_tokenizer = lambda tokenizer, folder: None  # is there already, see below
sys.exit(main(["preprocess", "text", "--workers", "1", *sys.argv[1:]]))
"""
    first = start([*arguments])
    first.communicate()
    expected = content(tmp_path)
    # The tokenizer file is larger than the limit; put it where the limited run looks for it.
    shutil.copytree(tmp_path / "out.tokenizer", tmp_path / "out.parts" / "tokenizer")
    for name in FINISHED[:3]:
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "out.tokenizer")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, "--resume"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr and "File too large" in done.stderr
    assert names(tmp_path) == ["in.jsonl", "out.parts"]
    assert not list((tmp_path / "out.parts").glob("*.tmp"))
    resumed = start([*arguments, "--resume"])
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    assert content(tmp_path) == expected


def test_a_full_file_system_is_an_error_that_can_be_resumed(tmp_path: Path, word_tokenizer: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs here; the limit on the file size takes its place")
    try:
        source = write_jsonl(tmp_path / "in.jsonl", ["a b c d " * 50] * 200)
        settings = config(source, disk / "out", word_tokenizer, workers=1, shard_bytes=8_000)
        with pytest.raises(RunError, match="No space left on device"):
            preprocess(settings)
        assert not set(FINISHED) & set(names(disk))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        preprocess(config(source, disk / "out", word_tokenizer, workers=1, shard_bytes=8_000, resume=True))
        assert documents(disk / "out") == [[1, *[3, 4, 5, 6] * 50, 2]] * 200
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.fixture
def unfinished(tmp_path: Path, word_tokenizer: Path) -> PreprocessConfig:
    """A run that a bad line in its last shard ended."""
    source = write_jsonl(tmp_path / "in.jsonl", ["a b c"] * 10)
    with source.open("a") as stream:
        stream.write("bad\n")
    settings = config(source, tmp_path / "out", word_tokenizer, shard_bytes=50, workers=1)
    with pytest.raises(UserError, match="found 1 invalid line"):
        preprocess(settings)
    assert "out.parts" in names(tmp_path)
    return settings


def with_changes(settings: PreprocessConfig, **changes: object) -> PreprocessConfig:
    import dataclasses

    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def test_leftovers_are_refused_without_resume_or_overwrite(unfinished: PreprocessConfig) -> None:
    with pytest.raises(UserError, match="continue with --resume or start over with --overwrite"):
        preprocess(with_changes(unfinished, max_bad_lines=1))
    sidecar = preprocess(with_changes(unfinished, max_bad_lines=1, overwrite=True))
    assert sidecar.num_documents == 10


def test_resume_with_more_bad_lines_allowed_goes_on(
    unfinished: PreprocessConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(with_changes(unfinished, max_bad_lines=1, resume=True)).num_documents == 10
    assert "shards are finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_bos": False}, "add_bos is False"),
        ({"json_key": "body"}, "json_key is 'body'"),
        ({"shard_bytes": 60}, "shard_bytes is 60"),
        ({"mask_token": "[X]"}, "tokenizer is"),
        ({"encoder": "tokenizers"}, "requested encoder is 'tokenizers'"),
    ],
)
def test_resume_with_other_options_is_refused(unfinished: PreprocessConfig, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        preprocess(with_changes(unfinished, resume=True, **changes))


def test_resume_with_a_changed_input_is_refused(unfinished: PreprocessConfig, tmp_path: Path) -> None:
    with (tmp_path / "in.jsonl").open("a") as stream:
        stream.write('{"text": "d"}\n')
    with pytest.raises(UserError, match=r"in\.jsonl changed"):
        preprocess(with_changes(unfinished, resume=True))


def test_resume_does_not_trust_a_part_of_another_size(unfinished: PreprocessConfig, tmp_path: Path) -> None:
    part = tmp_path / "out.parts" / "part-000000.bin"
    part.write_bytes(part.read_bytes()[:-2])
    preprocess(with_changes(unfinished, max_bad_lines=1, resume=True))
    assert documents(tmp_path / "out") == [[1, 3, 4, 5, 2]] * 10


def test_two_runs_never_write_to_one_prefix(unfinished: PreprocessConfig, tmp_path: Path) -> None:
    from meap_megatron.corpus.work_folder import Parts

    other = Parts(tmp_path / "out.parts")
    with pytest.raises(UserError, match="another run is writing"):
        preprocess(with_changes(unfinished, max_bad_lines=1, resume=True))
    other.close()
    preprocess(with_changes(unfinished, max_bad_lines=1, resume=True))


def test_resuming_a_finished_run_does_nothing(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    first = preprocess(config(source, tmp_path / "out", word_tokenizer))
    assert preprocess(config(source, tmp_path / "out", word_tokenizer, resume=True)) == first
    assert "is complete already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"add_bos": False},
        {"mask_token": "[X]"},
        {"json_key": "body"},
        {"encoder": "tokenizers"},
        {"inputs": ["in.jsonl", "more.jsonl"]},
        {"inputs": ["more.jsonl"]},
        {"inputs": ["folder/in.jsonl"]},  # of the same name and size
    ],
)
def test_a_finished_run_of_another_command_is_not_taken_for_this_one(
    tmp_path: Path, word_tokenizer: Path, changes: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    for name, text in (("folder/in.jsonl", "b"), ("more.jsonl", "c"), ("in.jsonl", "a")):
        write_jsonl(tmp_path / name, [text])
    settings = config(tmp_path / "in.jsonl", tmp_path / "out", word_tokenizer)
    preprocess(settings)
    before = content(tmp_path)
    if "inputs" in changes:
        changes = {"inputs": [str(tmp_path / name) for name in changes["inputs"]]}
    with pytest.raises(
        UserError, match="exists already and was made from other inputs or options; replace it with --overwrite"
    ):
        preprocess(with_changes(settings, resume=True, **changes))
    assert content(tmp_path) == before
    assert "complete already" not in capsys.readouterr().err


def test_a_finished_run_is_not_taken_for_one_of_its_changed_input(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    preprocess(config(source, tmp_path / "out", word_tokenizer))
    with source.open("a") as stream:
        stream.write('{"text": "d"}\n')
    with pytest.raises(UserError, match="was made from other inputs"):
        preprocess(config(source, tmp_path / "out", word_tokenizer, resume=True))
    preprocess(config(source, tmp_path / "out", word_tokenizer, resume=True, overwrite=True))
    assert documents(tmp_path / "out") == [[1, 3, 2], [1, 6, 2]]


def test_the_size_of_the_work_unit_makes_another_part_but_no_other_dataset(
    tmp_path: Path, word_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a", "b", "c"])
    whole = config(source, tmp_path / "out", word_tokenizer, shard_bytes=20)
    preprocess(whole)
    preprocess(with_changes(whole, resume=True, shard_bytes=1000, workers=1))
    assert "is complete already" in capsys.readouterr().err
    part = with_changes(whole, shard=(0, 2))
    preprocess(part)
    with pytest.raises(UserError, match="was made from other inputs or options"):
        preprocess(with_changes(part, resume=True, shard_bytes=1000))


def test_data_that_does_not_say_what_it_was_made_of_is_not_resumed(tmp_path: Path, word_tokenizer: Path) -> None:
    """Merged data, and the sidecars of versions that recorded no plan."""
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    preprocess(config(source, tmp_path / "one", word_tokenizer))
    merge(tmp_path / "out", [str(tmp_path / "one")])
    assert "plan" not in json.loads((tmp_path / "out.meap.json").read_text())
    with pytest.raises(UserError, match="does not say what it was made from .*--overwrite"):
        preprocess(config(source, tmp_path / "out", word_tokenizer, resume=True))


def test_moved_inputs_are_the_same_inputs(tmp_path: Path, word_tokenizer: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    first = preprocess(config(source, tmp_path / "out", word_tokenizer))
    (tmp_path / "elsewhere").mkdir()
    source = source.rename(tmp_path / "elsewhere" / "in.jsonl")
    assert preprocess(config(source, tmp_path / "out", word_tokenizer, resume=True)) == first
