"""The cache of sample indices: an entry is whole or absent, whoever builds it, however often, however it ends."""

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch

from meap_megatron.datasets import index_folder
from meap_megatron.datasets.provider import build_datasets, index_key, obtain_indices
from meap_megatron.errors import RunError, UserError
from meap_megatron.indexed.pair import open_pair
from tests.datasets.sft.conftest import Tools as SFTTools
from tests.datasets.sft.conftest import alpaca_like

FORK = multiprocessing.get_context("fork")


def samples_of(dataset) -> torch.Tensor:
    return torch.stack([dataset[index]["tokens"] for index in range(len(dataset))])


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of change of everything below a folder."""
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def obtain(tools, config, *, sizes=(80, 10, 0), said=None) -> index_folder.IndexEntry:
    said = [] if said is None else said
    return obtain_indices(config, sizes=list(sizes), folders=[tools.folder / "cache"], say=said.append)


def two_sources(tools, **changed):
    prefixes = [tools.write("first", seed=1), tools.write("second", seed=2, num_documents=80)]
    return tools.config(*prefixes, meap=tools.mask(), path_to_cache=str(tools.folder / "other"), **changed)


def through(entry: index_folder.IndexEntry, config, *, sizes=(80, 10, 0)) -> list:
    config.path_to_cache = str(entry.path)
    return build_datasets(config, sizes=list(sizes))


def obtain_and_digest(tools, config, start, results) -> None:
    start.wait()
    entry = obtain(tools, config)
    train = through(entry, config)[0]
    results.put((hashlib.sha256(samples_of(train).numpy().tobytes()).hexdigest(), entry.built))


def obtain_and_die(tools, config, start) -> None:
    """Be killed while the second file of the index is written: half of its bytes are there."""
    save, calls = np.save, []

    def save_and_die(path, array, **options):
        calls.append(path)
        save(path, array, **options)
        if len(calls) == 2:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    np.save = save_and_die
    start.wait()
    obtain(tools, config)


@contextlib.contextmanager
def ended(*processes):
    """End what still runs, however the block ends."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


class Watcher(threading.Thread):
    """Reads an entry all the time: what it saw first and last, and `Damaged` if anything was ever half there."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.over = path, threading.Event()
        self.first = self.last = index_folder.read(path, contents=True)
        self.damage: index_folder.Damaged | None = None

    def run(self) -> None:
        try:
            ending = False
            while not ending:
                ending = self.over.is_set()
                self.last = index_folder.read(self.path, contents=True)
        except index_folder.Damaged as damage:
            self.damage = damage

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()


def test_eight_builders_and_one_that_is_killed_end_with_one_good_entry(tools):
    config = two_sources(tools)
    path = tools.folder / "cache" / index_key(config, sizes=[80, 10, 0])
    start, results = FORK.Event(), FORK.Queue()
    builders = [FORK.Process(target=obtain_and_digest, args=(tools, config, start, results)) for _ in range(8)]
    killed = FORK.Process(target=obtain_and_die, args=(tools, config, start))
    with ended(killed, *builders), Watcher(path) as watcher:
        for process in (killed, *builders):
            process.start()
        start.set()
        found = [results.get(timeout=60) for _ in builders]
        for process in (killed, *builders):
            process.join(60)

    assert killed.exitcode == -signal.SIGKILL
    assert [process.exitcode for process in builders] == [0] * 8
    assert len({digest for digest, _ in found}) == 1
    assert sum(built for _, built in found) == 1
    assert watcher.first is None and watcher.last is not None and watcher.damage is None
    plain = build_datasets(two_sources(tools), sizes=[80, 10, 0])[0]
    assert hashlib.sha256(samples_of(plain).numpy().tobytes()).hexdigest() == found[0][0]

    # What the killed one left is removed by the next that builds, and nothing else is there.
    obtain(tools, config, sizes=(81, 10, 0))
    assert sorted(p.name for p in (tools.folder / "cache").iterdir()) == sorted(
        [path.name, index_key(config, sizes=[81, 10, 0])]
    )


def test_nothing_is_published_by_a_builder_that_is_killed(tools):
    config = two_sources(tools)
    start = FORK.Event()
    start.set()
    killed = FORK.Process(target=obtain_and_die, args=(tools, config, start))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert [p.name.startswith(".building-") for p in (tools.folder / "cache").iterdir()] == [True]
    assert obtain(tools, config).built


def test_a_workspace_whose_process_lives_is_not_removed(tools):
    with index_folder.workspace(tools.folder) as mine:
        with index_folder.workspace(tools.folder):
            assert mine.is_dir()
    assert not mine.exists()


def test_nobody_takes_a_workspace_for_a_leftover_before_its_lock_is_there(tools, monkeypatch):
    flock, made, over, kept = fcntl.flock, threading.Event(), threading.Event(), []

    def slow_flock(descriptor, operation):
        if threading.current_thread() is first and operation & fcntl.LOCK_NB:
            made.set()  # the folder is there and has no lock yet
            time.sleep(0.3)
        flock(descriptor, operation)

    def make() -> None:
        with index_folder.workspace(tools.folder) as mine:
            over.wait(10)
            kept.append(mine.is_dir())

    monkeypatch.setattr(index_folder.fcntl, "flock", slow_flock)
    first = threading.Thread(target=make)
    first.start()
    assert made.wait(10)
    with index_folder.workspace(tools.folder):
        over.set()
        first.join()
    assert kept == [True]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 9)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "damage", "message"),
    [
        ("*train-sample_index.npy", truncate, r"train-sample_index\.npy has [\d,]+ bytes, its manifest says"),
        ("*train-shuffle_index.npy", flip, r"train-shuffle_index\.npy has checksum"),
        ("*Blended*train*dataset_index.npy", Path.unlink, r"dataset_index\.npy cannot be read: No such file"),
        ("entry.json", truncate, r"entry\.json is not a manifest"),
    ],
)
def test_a_damaged_entry_is_named_and_built_again(tools, pattern, damage, message):
    config = two_sources(tools)
    good = obtain(tools, config)
    damage(next(good.path.glob(pattern)))
    said: list[str] = []
    again = obtain(tools, config, said=said)
    assert again.built and again.files == good.files
    assert len(said) == 1 and re.search(message, said[0]) and said[0].endswith("; the index is built again")
    assert [p.name for p in (tools.folder / "cache").iterdir()] == [good.path.name]
    assert not obtain(tools, config, said=said).built


def test_a_good_entry_that_took_the_place_of_a_damaged_one_is_given_back(tools, monkeypatch):
    """Two processes find the same damage; the slower must not throw away what the faster has built."""
    config = two_sources(tools)
    entry = obtain(tools, config)
    before = state(entry.path)
    reads = []
    read = index_folder.read

    def damaged_at_first(path, *, contents):
        reads.append(path)
        if len(reads) == 1:
            raise index_folder.Damaged("seen before another process built it again")
        return read(path, contents=contents)

    monkeypatch.setattr(index_folder, "read", damaged_at_first)
    assert not obtain(tools, config).built
    assert state(entry.path) == before
    assert [p.name for p in (tools.folder / "cache").iterdir()] == [entry.path.name]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_finds_every_index_in_the_entry_and_writes_nothing(tools, threads):
    config = two_sources(tools, num_dataset_builder_threads=threads)
    entry = obtain(tools, config)
    before = state(tools.folder / "cache")
    mine = through(entry, config)
    assert state(tools.folder / "cache") == before
    theirs = build_datasets(two_sources(tools), sizes=[80, 10, 0])
    for split in (0, 1):
        assert torch.equal(samples_of(mine[split]), samples_of(theirs[split]))


def test_megatrons_options_that_take_the_cache_for_granted_find_it(tools):
    per_split = [([tools.write(name, seed=seed)], None) for seed, name in enumerate(("a", "b", "c"))]
    settings = {"blend": None, "split": None, "blend_per_split": per_split, "path_to_cache": str(tools.folder / "o")}
    lazy = {"fast_cache_load": True, "defer_npy_index_mmap": True}
    entry = obtain(tools, tools.config(**settings, **lazy), sizes=(40, 10, 10))
    mine = through(entry, tools.config(**settings, **lazy), sizes=(40, 10, 10))
    theirs = build_datasets(tools.config(**settings), sizes=[40, 10, 10])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(samples_of(one), samples_of(other))


def test_the_key_follows_the_samples_and_not_the_masks(tools):
    prefix = tools.write()

    def key(sizes=(80, 10, 0), meap=None, **changed) -> str:
        return index_key(tools.config(prefix, meap=meap, **changed), sizes=list(sizes))

    same = [key(), key(meap=tools.mask()), key(meap=tools.mask(seed=3)), key(path_to_cache="elsewhere")]
    assert len(set(same)) == 1
    other = [
        key(sizes=(81, 10, 0)),
        key(random_seed=8),
        key(sequence_length=33),
        key(split="90,10,0"),
        key(add_extra_token_to_sequence=False),
        key(mid_level_dataset_surplus=0.01),
    ]
    tools.write(seed=5)
    assert len({*same, *other, key()}) == 8


def test_the_manifest_says_what_is_read_of_every_source(tools):
    config = two_sources(tools)
    entry = obtain(tools, config, sizes=(90, 10, 0))
    train = [row for row in entry.facts["sources"] if row["split"] == "train"]
    assert [Path(row["prefix"]).name for row in train] == ["first", "second"]
    assert [row["samples"] for row in train] == [45, 45]  # the blend's weights are equal
    lengths = open_pair(str(tools.folder / "first")).lengths
    tokens = lengths[: round(0.8 * len(lengths))].sum()
    assert train[0]["epochs"] == pytest.approx(45 * 32 / tokens)
    assert json.loads((entry.path / index_folder.MANIFEST).read_text())["facts"] == entry.facts


def test_fine_tuning_rows_are_cached_the_same_way(tmp_path: Path):
    tools = SFTTools(folder=tmp_path)
    prefix = tools.write(alpaca_like(60))
    config = tools.config(prefix, path_to_cache=str(tmp_path / "other"))
    entry = obtain(tools, config, sizes=(30, 5, None))
    before = state(tmp_path / "cache")
    mine = through(entry, config, sizes=(30, 5, None))
    assert state(tmp_path / "cache") == before
    theirs = build_datasets(tools.config(prefix, path_to_cache=str(tmp_path / "other")), sizes=[30, 5, None])
    assert torch.equal(samples_of(mine[0]), samples_of(theirs[0]))
    assert entry.facts["sources"][0]["samples"] == 30

    truncate(next(entry.path.glob("*train-items.npy")))
    said: list[str] = []
    assert obtain(tools, config, sizes=(30, 5, None), said=said).built
    assert "train-items.npy has" in said[0]


def test_the_first_folder_that_can_be_written_is_taken_and_what_is_there_is_found_in_any(tools):
    config = two_sources(tools)
    (tools.folder / "file").write_text("not a folder")
    closed, open_, later = tools.folder / "file" / "cache", tools.folder / "b", tools.folder / "c"
    sizes = [80, 10, 0]
    entry = obtain_indices(config, sizes=sizes, folders=[closed, open_], say=print)
    assert entry.path.parent == open_
    found = obtain_indices(config, sizes=sizes, folders=[later, open_], say=print)
    assert found.path == entry.path and not found.built
    with pytest.raises(UserError, match=r"none of .*file/cache: no permission to write; set data_cache_path"):
        obtain_indices(config, sizes=sizes, folders=[closed], say=print)


def test_a_full_disk_leaves_nothing_behind(tools, monkeypatch):
    def no_space(path, array, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(np, "save", no_space)
    with pytest.raises(RunError, match=r"cannot write .*index\.npy: No space left on device"):
        obtain(tools, two_sources(tools))
    assert list((tools.folder / "cache").iterdir()) == []
