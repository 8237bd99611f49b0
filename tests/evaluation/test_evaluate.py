"""`meap evaluate` on a real tiny model: complete documents, the harness's own scores, resume, and plain refusals."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from meap_megatron.evaluation import bos
from meap_megatron.evaluation.retrieval.mdqa import ORACLE
from tests.evaluation.conftest import TASKS
from tests.evaluation.fakes import evaluated, samples_of, write_gz, write_long_context_data

PLACES = (
    "Oslo Lima Cairo Quito Delhi Paris Rome Bern Kyiv Baku Doha Hanoi Seoul Tunis Malmo Turin Porto Ghent Leeds Izmir "
    "Split Nantes"
).split()
NEEDLE = ["--lengths", "512", "--depths", "0,100", "--variants", "1"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    records = [
        {
            "question": f"where was treaty {n} signed",
            "answers": [place],
            "ctxs": [{"title": f"T{n}", "text": f"{n}: {place}.", "hasanswer": True, "isgold": True}],
        }
        for n, place in enumerate(PLACES)
    ]
    write_gz(folder / ORACLE, records)
    return write_long_context_data(folder)


@pytest.fixture
def evaluate(tiny_model: Path, essays: Path, data: Path, tmp_path: Path) -> Any:
    """Run `meap evaluate` and return its results document."""

    def run(suite: str, *options: str, out: str = "out", model: Path | None = None, status: int = 0) -> dict[str, Any]:
        named = {"model": model or tiny_model, "essays": essays, "data": data}
        return evaluated(suite, tmp_path / out, *options, status=status, **named)

    return run


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_local_suite_runs_offline_and_says_what_it_ran(
    evaluate: Any, tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "needle": NEEDLE,
        "mdqa": ["--limit", "1"],
        "kv": ["--limit", "1"],
        "ruler": ["--lengths", "2048", "--limit", "1"],
        "babilong": ["--limit", "1"],
        "nolima": ["--lengths", "512", "--depths", "50", "--limit", "1"],
        "helmet-recall": ["--lengths", "1024,2048", "--limit", "1"],
        "mrs": ["--lengths", "512", "--depths", "50", "--limit", "1"],
    }
    for suite, words in options.items():
        content = evaluate(suite, *words)
        samples = samples_of(suite, tmp_path / "out")
        assert content["samples"] == len(samples) == sum(task["samples"] for task in content["tasks"])
        assert all(task["version"] == 1 for task in content["tasks"])
        assert len(content["model"]["fingerprint"]) == len(content["tokenizer"]["fingerprint"]) == 64
        assert content["model"]["max_length"] == 2048
        assert content["bos"] == {"add_bos": False, "source": "tokenizer default"}
        assert content["settings"]["seed"] == 0
        assert content["seconds"] > 0
        assert {"python", "torch", "transformers", "lm_eval", "meap_megatron"} <= content["versions"].keys()
        assert "git_commit" in content
        for task in content["tasks"]:
            own = [sample for sample in samples if sample["task"] == task["task"]]
            assert task["unfit"] == sum(sample["metrics"]["unfit"] for sample in own)
        scored = any(cell["mean"] is not None for cell in content["cells"])
        assert (tmp_path / "out" / f"{suite}.png").exists() == scored
        assert ("effective_length" in content) == (suite not in ("mdqa", "kv"))
    said = capsys.readouterr().out
    assert "[synthetic distractors]" in said
    # 75 keys are about 6,000 tokens here: nothing of it fits, and that is said.
    assert "1 of 1 sample not scored: longer than the model's 2,048 tokens" in said
    assert content["tasks"][0]["sources"] == ["generated kinship chains"]
    assert json.loads((tmp_path / "out" / "needle.json").read_text())["haystack"]["count"] == 3


def test_the_scores_are_those_of_plain_lm_eval(
    evaluate: Any, tiny_model: Path, essays: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partialmethod

    from lm_eval.__main__ import cli_evaluate
    from lm_eval.tasks import TaskManager

    chosen = {
        "needle": ["needle"],
        "mdqa": ["nq_open_oracle", "mdqa_10_gold_at_4"],
        "ruler": ["ruler_niah_multivalue", "ruler_qa_squad"],
        "babilong": ["babilong_qa4"],
        "nolima": ["nolima_onehop"],
        "helmet-recall": ["json_kv"],
    }
    grid = ["--lengths", "512", "--depths", "0,100", "--variants", "1", "--limit", "2"]
    ours = {
        task["task"]: task["metrics"]
        for suite, tasks in chosen.items()
        for task in evaluate(suite, *grid, "--tasks", ",".join(tasks))["tasks"]
    }
    metadata = {
        "essays": str(essays),
        "data": str(data),
        "lengths": [512],
        "depths": [0, 100],
        "variants": 1,
        "samples": 2,
    }
    words = ["lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={tiny_model}", "--device", "cpu"]
    words += ["--tasks", ",".join(ours), "--include_path", str(TASKS)]
    words += ["--metadata", json.dumps(metadata), "--output_path", str(tmp_path / "plain")]
    monkeypatch.setattr(sys, "argv", words)
    # Without the thousands of task files that it ships and that are not asked for.
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    cli_evaluate()
    (plain,) = (tmp_path / "plain").rglob("results_*.json")
    theirs = json.loads(plain.read_text())["results"]
    assert len(theirs) == len(ours) == 8
    compared = 0
    for task, found in theirs.items():
        for metric, values in ours[task].items():
            assert found[f"{metric},none"] == pytest.approx(values["mean"], abs=1e-12), (task, metric)
            compared += values["mean"] > 0
    assert compared >= 3  # scores that are not all zero


@pytest.mark.parametrize(
    ("suite", "options", "count"),
    [
        ("needle", [*NEEDLE, "--limit", "1"], 3),
        # Of samples that are generated, the same are generated again.
        ("ruler", ["--tasks", "ruler_niah_single_1", "--lengths", "1024", "--limit", "4"], 4),
    ],
)
def test_a_killed_run_continues_and_a_finished_one_is_not_repeated(
    suite: str,
    options: list[str],
    count: int,
    evaluate: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from meap_megatron.evaluation.response_cache import Ledger

    whole = evaluate(suite, *options, out="whole")
    record = Ledger.record

    def dying(ledger: Ledger, key: str, answer: Any) -> None:
        record(ledger, key, answer)
        if len(ledger.answers) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "record", dying)
        evaluate(suite, *options, status=130)
    assert not (tmp_path / "out" / f"{suite}.json").exists()
    resumed = evaluate(suite, *options)
    assert resumed["requests"] == {"known": 2, "asked": count - 2}
    assert resumed["tasks"] == whole["tasks"]
    assert evaluate(suite, *options) == resumed
    assert "finished already" in capsys.readouterr().err
    evaluate(suite, *options[:-1], "9", status=2)
    assert "results of another model or of other settings" in capsys.readouterr().err
    assert evaluate(suite, *options, "--overwrite")["requests"] == {"known": 0, "asked": count}


def test_prompts_together_get_the_answers_of_prompts_by_themselves(evaluate: Any, tmp_path: Path) -> None:
    wide = ["--lengths", "400,512", "--depths", "0,50,100", "--variants", "2"]
    for size in ("1", "auto"):
        assert evaluate("needle", *wide, "--batch-size", size, out=size)["settings"]["batch_size"] in (1, "auto")
    alone, together = (samples_of("needle", tmp_path / size) for size in ("1", "auto"))
    assert together == alone
    assert len({sample["answer_given"] for sample in alone}) > 2


def test_a_model_without_a_cache_to_share_is_asked_by_itself(
    evaluate: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meap_megatron.evaluation import shared_prefix

    together = evaluate("needle", *NEEDLE)
    monkeypatch.setattr(shared_prefix, "can_share", lambda model: False)
    monkeypatch.setattr(shared_prefix, "answers", None)
    assert evaluate("needle", *NEEDLE, out="alone")["tasks"] == together["tasks"]


def test_a_suite_of_published_data_belongs_to_all_where_the_data_are(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meap_megatron.evaluation import run

    asked: list[str] = []
    monkeypatch.setattr(run, "evaluate", lambda request, names: asked.extend(names) or [])
    for folder in (tmp_path, data):
        assert main(["evaluate", "all", "--model", "m", "--data", str(folder), "--out", str(tmp_path)]) == 0
    assert [asked.count(name) for name in ("ruler", "helmet-recall", "babilong", "nolima")] == [2, 2, 1, 1]


def test_the_bos_of_the_training_is_enforced_and_recorded(
    evaluate: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / bos.FILE_NAME).write_text('{"format_version": 1, "add_bos": true}')
    assert evaluate("needle", *NEEDLE, model=model)["bos"] == {"add_bos": True, "source": "meap_eval.json"}
    evaluate("needle", *NEEDLE, "--no-bos", model=model, status=2)
    assert "was trained with BOS" in capsys.readouterr().err
    (model / bos.FILE_NAME).write_text('{"format_version": 1, "add_bos": true, "tokenizer_fingerprint": "0123"}')
    evaluate("needle", *NEEDLE, model=model, status=2)
    assert "trained with tokenizer 0123, but the one beside it is" in capsys.readouterr().err


def test_wrong_inputs_are_refused_with_the_reason(
    evaluate: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(suite: str, *options: str, status: int = 2, **more: Any) -> str:
        evaluate(suite, *options, status=status, **more)
        return capsys.readouterr().err

    assert "model nowhere is not a folder" in refusal("needle", model=Path("nowhere"))
    assert "has no config.json" in refusal("needle", model=tmp_path)
    bare = Path(shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*")))
    assert "has no tokenizer\n  fix: put tokenizer.json" in refusal("needle", model=bare)
    empty = Path(shutil.copytree(tiny_model, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors")))
    assert "has no weights" in refusal("needle", model=empty)
    assert "length 4096 is above the model's limit of 2048 tokens" in refusal("needle", "--lengths", "512,4096")
    assert "--max-length 9999 is above the model's limit of 2048" in refusal("needle", "--max-length", "9999")
    assert "essays missing do not exist" in refusal("needle", "--essays", "missing")
    (tmp_path / "nothing").mkdir()
    assert "holds neither nq-open-10_total_documents_gold_at_0" in refusal("mdqa", "--data", str(tmp_path / "nothing"))
    assert "did you mean 'needle'?" in refusal("neddle")
    assert "--limit must be a whole number of at least 1, found 0" in refusal("needle", "--limit", "0")
    assert f"evaluation data {tmp_path / 'no'} is not a folder" in refusal("mdqa", "--data", str(tmp_path / "no"))


def test_a_refusal_leaves_no_empty_folder_of_results(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("evaluation")))
    for folder, options in ((tmp_path / "nowhere", []), (tmp_path, []), (model, ["--max-length", "9999"])):
        assert main(["evaluate", "needle", "--model", str(folder), "--device", "cpu", *options]) == 2
    assert not (tmp_path / "nowhere").exists()
    assert not list(tmp_path.rglob("evaluation"))


def test_options_that_a_suite_does_not_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from meap_megatron.evaluation import run

    monkeypatch.setattr(run, "evaluate", lambda request, names: [])
    words = ["--depths", "0,50", "--data", str(tmp_path), "--tasks", "mdqa_10_gold_at_0", "--mask-ratio", "0.3"]
    assert main(["evaluate", "mdqa", "--model", "m", *words]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("meap: note: ")]
    assert notes == [
        "meap: note: --depths has no effect on mdqa; it is for needle, mrs, nolima, retrieval-heads",
        "meap: note: --mask-ratio has no effect on mdqa; it is for attention, retrieval-heads",
    ]
    assert main(["evaluate", "all", "--model", "m", "--depths", "0,50"]) == 0
    assert "has no effect" not in capsys.readouterr().err


def test_a_suite_that_cannot_run_keeps_no_other_from_running_and_hides_no_score(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from meap_megatron.evaluation import run

    def suite(request: Any, session: Any, name: str) -> dict[str, Any]:
        if name == "mdqa":
            raise UserError("its data are not there")
        return {"suite": name, "samples": 7, "seconds": 1.0, "tasks": [], "headline": {}}

    monkeypatch.setattr(run, "open_session", lambda request: None)
    monkeypatch.setattr(run, "evaluate_suite", suite)
    assert main(["evaluate", "all", "--model", str(tiny_model), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [
        *("commonsense", "needle", "kv", "mrs", "ruler", "helmet-recall", "text-loss", "retrieval-heads")
    ]
    assert "mdqa: its data are not there" in said.err
    assert "1 of 9 suites did not run: mdqa" in said.err


def test_commonsense_without_its_data_sets_says_how_to_get_them(
    evaluate: Any,
    no_network: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    evaluate("commonsense", "--limit", "1", status=1)
    said = capsys.readouterr().err
    assert "data sets of arc_challenge, arc_easy" in said
    assert "HF_HUB_OFFLINE=1" in said


def small_data_set(path: str, name: str | None = None, **_: Any) -> Any:
    """Return three records in the fields of each commonsense data set, for `datasets.load_dataset`."""
    import datasets

    choices = {"text": ["a red car", "a blue car"], "label": ["A", "B"]}
    question = "where is the car"
    records: dict[str, dict[str, Any]] = {
        "arc": {"id": "1", "question": question, "choices": choices, "answerKey": "B"},
        "glue": {"passage": "A car.", "question": question, "label": 1},
        "piqa": {"goal": question, "sol1": "look", "sol2": "listen", "label": 0},
        "hellaswag": {
            "ctx_a": "A car stops.",
            "ctx_b": "the driver",
            "activity_label": "Driving",
            "endings": ["gets out.", "sings.", "eats a sandwich in the park.", "sleeps."],
            "label": "2",
        },
        "winogrande": {"sentence": "The _ is red.", "option1": "car", "option2": "bus", "answer": "2"},
        "openbookqa": {"question_stem": question, "choices": choices, "answerKey": "A"},
    }
    (record,) = (value for key, value in records.items() if key in path.lower())
    rows = datasets.Dataset.from_list([record] * 3)
    return datasets.DatasetDict({split: rows for split in ("train", "validation", "test")})


def test_the_seven_commonsense_tasks_report_both_metrics_and_their_own_average(
    evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", small_data_set)
    content = evaluate("commonsense", "--limit", "2")
    columns, average = content["headline"]["columns"], content["headline"]["average"]
    assert list(columns["acc"]) == [task["task"] for task in content["tasks"]]
    assert len(columns["acc"]) == 7
    assert all(task["samples"] == 2 for task in content["tasks"])
    assert columns["acc_norm"]["boolq"] == columns["acc"]["boolq"]
    for metric in ("acc", "acc_norm"):
        assert average[metric] == pytest.approx(sum(columns[metric].values()) / 7)
    assert "Table 1" in content["headline"]["tables"]["acc"]
    assert content["requests"]["asked"] > 7


def test_tasks_of_a_suite_can_be_named(evaluate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluate("mdqa", "--limit", "1", "--tasks", "nq_open_oracle,meap_mdqa_10_gold_at_4")
    assert [task["task"] for task in content["tasks"]] == ["meap_mdqa_10_gold_at_4", "meap_nq_open_oracle"]
    assert content["settings"]["tasks"] == ["meap_mdqa_10_gold_at_4", "meap_nq_open_oracle"]
    evaluate("mdqa", "--tasks", "oracle", out="other", status=2)
    assert "--tasks oracle: the tasks of this suite are mdqa_10_gold_at_0" in capsys.readouterr().err


def test_results_are_valid_json_whatever_a_judge_or_a_metric_gives(tmp_path: Path) -> None:
    from meap_megatron.evaluation.results import write

    records = [{"answer_given": "\ud83d\u2028", "metrics": {"x": float("nan")}}]
    write(tmp_path, "s", {"mean": float("inf"), "said": "\ud83d"}, records)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (tmp_path / "s.samples.jsonl").read_text(encoding="utf-8")
    (line,) = text.rstrip("\n").split("\n")
    assert json.loads(line, parse_constant=refuse)["answer_given"] == "\ud83d\u2028"
    content = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"mean": None, "said": "\ud83d"}
