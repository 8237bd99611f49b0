"""The family of masked inputs through Megatron's own trainer: every layout, after a stop, and for moved data the same run.

Two configurations hold one setting of each part: a schedule, clean samples, random tokens, weights by position and pairs;
and a range, a mix, places that are left alone, and predictors only. A third one fine-tunes.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.conversations import docstring_rows, write_alpaca
from tests.support.corpus import write_dataset
from tests.support.runs import TINY, losses, meap, traced, train

pytestmark = pytest.mark.slow
STEPS = 8
SETTINGS = {
    "pairs": [
        "meap_mask_ratio=0.05@0,0.4@0.5",
        "meap_clean_fraction=0.3",
        "meap_corruption=random",
        "meap_loss_on=masked=0.5,unmasked=1",
        "meap_pair=clean+masked",
        "meap_pair_weight=0.4",
    ],
    "places": [
        "meap_mask_ratio=0:0.5",
        "meap_corruption=mix",
        "meap_skip_first=4",
        "meap_min_document_tokens=30",
        "meap_loss_on=predictors",
        "meap_mask_strategy=span",
        "meap_span_length=3",
    ],
}
LAYOUTS = {
    "tp2_sp": ["nproc=2", "tensor_model_parallel_size=2", "sequence_parallel=true"],
    "pp2": ["nproc=2", "pipeline_model_parallel_size=2"],
    "dp2": ["nproc=2", "use_distributed_optimizer=true"],
}
FIELDS = ("lm_loss", "masked_loss", "other_loss", "grad_norm", "mask_fraction", "trained_fraction")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("family")
    texts = tuple(f"{n} times {m} is {n * m}. " * (1 + (n + m) % 5) for n in range(30) for m in range(10))
    write_dataset(root, texts)
    train("tiny_cpu_meap.yaml", *words(root, "init", "pairs"), "train_iters=1", "eval_iters=0")
    return root


def words(root: Path, name: str, kind: str, data: Path | None = None) -> list[str]:
    run = [f"data_path={data or root / 'data'}", f"save={root / name}", f"meap_trace={root / name / 'trace'}"]
    return [*TINY, "num_layers=2", *run, *SETTINGS[kind]]


def run(root: Path, name: str, kind: str, *extra: str, data: Path | None = None) -> Path:
    begin = [f"pretrained_checkpoint={root / 'init'}", f"train_iters={STEPS}", "save_interval=4"]
    train("tiny_cpu_meap.yaml", *words(root, name, kind, data), *begin, *extra)
    return root / name


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Path]:
    return {kind: run(folder, kind, kind) for kind in SETTINGS}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", SETTINGS)
def test_every_layout_computes_what_one_process_computes(folder, alone, kind, layout) -> None:
    other = run(folder, f"{kind}_{layout}", kind, *LAYOUTS[layout])
    for field in FIELDS:
        expected, got = losses(alone[kind], field), losses(other, field)
        assert sorted(got) == list(range(1, STEPS + 1))
        for step, value in expected.items():
            assert got[step] == pytest.approx(value, rel=1e-5), f"{field} at step {step}"
    for field in ("tokens", "masked"):
        one, many = traced(alone[kind], field), traced(other, field)
        for step, (rows,) in one.items():
            if layout == "dp2":
                assert sorted(many[step][0] + many[step][1]) == sorted(rows)
            else:
                assert all(rank_rows == rows for rank_rows in many[step])


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_stopped_run_and_moved_data_continue_to_the_bit(folder, alone, kind) -> None:
    moved = folder / f"elsewhere_{kind}"
    moved.mkdir()
    for path in folder.glob("data*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, moved / path.name)
    stopped = run(folder, f"{kind}_stopped", kind, "exit_interval=4", data=moved / "data")
    assert max(losses(stopped)) == 4
    run(folder, f"{kind}_stopped", kind, data=folder / "data")
    for field in FIELDS:
        assert losses(stopped, field) == losses(alone[kind], field)


def test_the_realised_ratio_follows_the_schedule_and_pairs_halve_it(alone) -> None:
    shares = losses(alone["pairs"], "mask_fraction")
    # 8 rows a step are 4 samples, of which 30 % stay clean; half of the rows are clean anyway.
    assert sum(list(shares.values())[:2]) < sum(list(shares.values())[-2:])
    assert all(share <= 0.5 * 0.4 for share in shares.values())
    assert set(losses(alone["pairs"], "trained_fraction").values()) == {1.0}
    spread = set(losses(alone["places"], "mask_fraction").values())
    assert len(spread) > STEPS // 2 and max(spread) < 0.5


def test_fine_tuning_takes_corruption_and_weights(folder) -> None:
    write_alpaca(folder / "alpaca.json", docstring_rows(60))
    options = ["--template", "alpaca", "--max-length", "257", "--tokenizer", folder / "tokenizer"]
    meap("preprocess", "sft", folder / "alpaca.json", *options, "--output", folder / "sft")
    begin = [*TINY, "num_layers=2", "seq_length=256", "max_position_embeddings=256", f"data_path={folder / 'sft'}"]
    own = [
        "micro_batch_size=1",
        "global_batch_size=4",
        "train_iters=3",
        "meap_epochs=null",
        "eval_iters=0",
        "split=100,0,0",
    ]
    thought = [
        "meap_mask_ratio=0.2",
        "meap_sft_min_answer=0",
        "meap_sft_loss_on_original=none",
        "meap_sft_loss_on_copy=answer+end",
        "meap_corruption=random",
        "meap_loss_on=masked=1,unmasked=0.5",
    ]
    for name, layout in (("thought", []), ("thought_tp2", ["nproc=2", "tensor_model_parallel_size=2"])):
        train("tiny_cpu_sft_meap.yaml", *begin, *own, *thought, *layout, f"save={folder / name}")
    for field in ("lm_loss", "masked_loss", "other_loss", "mask_fraction"):
        expected, got = losses(folder / "thought", field), losses(folder / "thought_tp2", field)
        assert len(expected) == 3
        assert all(got[step] == pytest.approx(value, rel=1e-5) for step, value in expected.items())
    assert all(0 < value < 0.25 for value in losses(folder / "thought", "mask_fraction").values())
