"""`meap cache` before the job, and what a node sees that cannot see the data or the index; through the real trainer."""

import os
import socket
import time
from pathlib import Path

import pytest

from meap_megatron.launch.runtime import free_port
from tests.support.conversations import docstring_rows, write_chat_dataset
from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import RECIPES, TINY, run_warm, start, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    for name in ("data", "more"):
        write_dataset(root, library_texts(1_200_000), name)
    return root


def cache(recipe: str, *overrides: str) -> str:
    done = run_warm(["cache", str(RECIPES / recipe), *overrides], timeout=200, environ=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def test_after_meap_cache_a_run_writes_nothing_to_the_cache_at_any_layout(folder: Path) -> None:
    blend = f"data_path=[0.7, {folder / 'data'}, 0.3, {folder / 'more'}]"
    index = folder / "shared"
    common = [*TINY, blend, "train_iters=6", "eval_interval=3", f"data_cache_path={index}"]
    said = cache("tiny_cpu_meap.yaml", *common)
    assert said.splitlines()[0].split() == ["split", "samples", "epochs", "data"]
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [["train", "34"], ["train", "15"]]
    assert "built in" in said and str(index) in said
    before = state(index)

    train("tiny_cpu_meap.yaml", *common, f"save={folder / 'one'}")
    assert state(index) == before
    # The arms share it: indices do not depend on what is masked; nor on the number of ranks.
    train("tiny_cpu_ntp.yaml", *common, f"save={folder / 'two'}", "nproc=2", "tensor_model_parallel_size=2")
    assert state(index) == before

    # Nor on anything that a login node cannot do: 512 GPUs, FP8, Transformer Engine.
    cluster = "tensor_model_parallel_size=8 pipeline_model_parallel_size=4 use_distributed_optimizer=true bf16=true "
    cluster += "transformer_impl=transformer_engine fp8_format=hybrid micro_batch_size=1 device=cuda "
    cluster += "hidden_size=4096 ffn_hidden_size=16384 num_attention_heads=32 num_query_groups=8"
    said = cache("tiny_cpu_meap.yaml", *common, *cluster.split(), f"save={folder / 'three'}")
    assert "is there" in said and state(index) == before
    assert len(list(index.iterdir())) == 1


def test_a_recipe_of_the_paper_for_a_cluster_is_cached_without_a_gpu(folder: Path) -> None:
    said = cache(
        "pretrain/llama_1.1b_meap.yaml",
        f"data_path={folder / 'data'}",
        f"data_cache_path={folder / 'paper'}",
        "split=90,10,0",
        "train_iters=3",
        "tensor_model_parallel_size=8",
    )
    assert "built in" in said and len(list((folder / "paper").iterdir())) == 1


def test_fine_tuning_rows_are_packed_before_the_job(folder: Path, tmp_path: Path) -> None:
    talk = write_chat_dataset(tmp_path, docstring_rows(400), max_length=129)
    index = folder / "rows"
    size = ["seq_length=128", "max_position_embeddings=128", "train_iters=4"]
    common = [*TINY, *size, f"data_path={talk}", f"data_cache_path={index}"]
    assert "built in" in cache("tiny_cpu_sft_meap.yaml", *common)
    before = state(index)
    train("tiny_cpu_sft_meap.yaml", *common, f"save={folder / 'sft'}")
    assert state(index) == before


def test_a_damaged_index_is_named_and_built_again_by_the_run(folder: Path) -> None:
    index = folder / "damaged"
    common = [*TINY, f"data_path={folder / 'data'}", "train_iters=3", f"data_cache_path={index}"]
    cache("tiny_cpu_meap.yaml", *common)
    path = next(index.glob("*/*train-shuffle_index.npy"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    done = train("tiny_cpu_meap.yaml", *common, f"save={folder / 'repaired'}")
    assert (
        f"{path} has {len(whole) - 8:,} bytes, its manifest says {len(whole):,}; the index is built again"
        in done.stdout
    )
    assert "sample index built in" in done.stdout
    assert next(index.glob("*/*train-shuffle_index.npy")).read_bytes() == whole


class Nodes:
    """Two ranks in folders of their own, as on two nodes: a relative path is another file on each."""

    def __init__(self, root: Path) -> None:
        self.folders = [root / "node0", root / "node1"]
        for node in self.folders:
            node.mkdir(parents=True)

    def train(self, *overrides: str) -> list[tuple[int, str, float]]:
        """Start a rank in each folder as `srun` would; return exit status, stderr and time of the end of each."""
        port, ranks = str(free_port()), []
        for rank, node in enumerate(self.folders):
            place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
            environ = {"MASTER_PORT": port, "MEAP_VISIBLE_SECONDS": "2"} | place
            words = [*TINY, *overrides, "train_iters=2", "device=cpu", f"save={node / 'run'}"]
            ranks.append(start("train", RECIPES / "tiny_cpu_meap.yaml", *words, cwd=node, **environ))
        said = [rank.communicate(timeout=150)[1] for rank in ranks]
        return [(rank.returncode, text, time.time()) for rank, text in zip(ranks, said, strict=True)]


def test_data_that_one_node_cannot_see_ends_all_ranks_with_its_host_and_path(folder: Path, tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    for suffix in (".bin", ".idx", ".meap.json"):
        (nodes.folders[0] / f"mine{suffix}").symlink_to(folder / f"data{suffix}")
    began = time.time()
    for status, said, end in nodes.train("data_path=mine"):
        assert status == 2
        assert f"rank 1 on {socket.gethostname()}: " in said and "mine" in said and "does not exist" in said
        assert end - began < 60


def test_an_index_that_one_node_cannot_see_ends_all_ranks_with_its_host_and_path(folder: Path, tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    ranks = nodes.train(f"data_path={folder / 'data'}", "data_cache_path=local")
    (entry,) = (nodes.folders[0] / "local").iterdir()
    for status, said, end in ranks:
        assert status == 2
        assert f"rank 1 on {socket.gethostname()}: the sample index {nodes.folders[1]}/local/" in said
        assert f"which rank 0 on {socket.gethostname()} has, is not seen here (it is not there)" in said
        assert end - entry.stat().st_mtime < 60
