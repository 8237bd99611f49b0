"""RULER's samples are the harness's own, fit at every length, are found again by size, and are scored as published."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_length import Measure, load_measure
from meap_megatron.evaluation.retrieval import kv, ruler, sized
from meap_megatron.evaluation.suites import RULER, SUITES
from tests.evaluation.fakes import Cheat, Silent

NO_DATA = [kind for kind in RULER if not kind.startswith("qa")]
TASKS = [*SUITES["ruler"].tasks, "meap_json_kv"]


@pytest.fixture
def make(tokenizer_folder: Path, essays: Path) -> Any:
    def build(kind: str, **options: Any) -> list[dict[str, Any]]:
        settings = {
            "tokenizer": str(tokenizer_folder),
            "essays": str(essays),
            "samples": 2,
            "lengths": [2048],
            **options,
        }
        made = kv.build_filled(**settings) if kind == "json_kv" else ruler.build(kind=kind, **settings)
        return list(made["test"])

    return build


def test_a_model_that_copies_scores_100_percent_and_a_silent_one_nothing(
    score: Any, essays: Path, long_context_data: Path
) -> None:
    settings = {"essays": str(essays), "data": str(long_context_data), "samples": 2, "lengths": [2048]}
    cheat, silent = (score(model, TASKS, **settings) for model in (Cheat(), Silent()))
    assert {task: (cheat[task]["string_match"], cheat[task]["unfit"]) for task in TASKS} == dict.fromkeys(
        TASKS, (1, 0)
    )
    assert {task: silent[task]["string_match"] for task in TASKS} == dict.fromkeys(TASKS, 0)


@pytest.mark.parametrize("kind", [*NO_DATA, "json_kv"])
def test_every_prompt_fits_its_length_and_a_length_that_is_too_short_ends_the_search(
    kind: str, make: Any, tokenizer_folder: Path
) -> None:
    # With a token for every byte most tasks need more than 512; the harness's own generators would search for ever.
    measure = load_measure({"tokenizer": str(tokenizer_folder)})
    new_tokens = {"vt": 30, "cwe": 120, "fwe": 50, "json_kv": 100}.get(kind, 128)
    made = make(kind, lengths=[512, 2048, 4096])
    assert [sample["length"] for sample in made] == [512, 512, 2048, 2048, 4096, 4096]
    for sample in made:
        filled = measure.count(sample["prompt"]) + new_tokens
        assert filled <= sample["length"]
        if sample["length"] > 512 and kind != "cwe":  # the words of a list are repeated: its steps are large
            assert sample["fits"] and filled > 0.85 * sample["length"]
        assert all(output in sample["prompt"] for output in sample["outputs"])
    assert not make(kind, max_length=1024)[0]["fits"]


def test_samples_depend_on_seed_task_and_index_and_not_on_their_number_or_on_what_was_drawn_before(make: Any) -> None:
    first = make("niah_multikey_2")
    random.random()
    assert make("niah_multikey_2", samples=3)[:2] == first
    assert first[0]["outputs"] != first[1]["outputs"]
    assert make("niah_multikey_2", seed=1)[0]["prompt"] != first[0]["prompt"]
    assert make("cwe") == make("cwe")
    state = random.getstate()
    make("fwe")
    assert random.getstate() == state


def test_sizes_are_counted_once_and_a_broken_cache_is_counted_again(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make("niah_multivalue")
    (kept,) = (tmp_path / "cache" / "meap_megatron" / "samples").iterdir()
    counted = []
    count = Measure.count
    monkeypatch.setattr(
        Measure, "count", lambda self, *words, **more: counted.append(1) or count(self, *words, **more)
    )
    assert make("niah_multivalue") == first
    assert len(counted) == 1  # of the tokenizer's own identity
    kept.write_text("[1")
    assert make("niah_multivalue") == first
    assert len(counted) > 2
    monkeypatch.setenv("MEAP_CACHE", str(kept))  # a file: nothing can be kept there
    assert make("niah_multivalue") == first


@pytest.mark.parametrize("kind", NO_DATA)
def test_the_harness_would_give_the_same_prompt_and_the_same_score(kind: str, make: Any) -> None:
    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    from meap_megatron.evaluation.retrieval.ruler import process_results

    sample = make(kind)[0]
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / "ruler" / f"{kind}.yaml")
    starts = r"(The special magic \w+ for [^?]* (?:is|are)|Answer: (?:According to|The top 10).*:)$"
    start = re.search(starts, sample["prompt"])
    assert start
    document = {
        "input": sample["prompt"][: start.start()].strip(),
        "gen_prefix": start[1],
        "outputs": sample["outputs"],
        "max_length": 4096,
    }
    config["custom_dataset"] = lambda **_: {"test": datasets.Dataset.from_list([document])}
    task = ConfigurableTask(config=config)
    start_of_answer = task.doc_to_prefix(document)
    assert task.fewshot_context(document, 0, gen_prefix=start_of_answer) == sample["prompt"]
    said = f"It is {sample['outputs'][0].upper()}."
    theirs = task.process_results(document, [said])["4096"]
    assert process_results(sample, [said])["string_match"] == theirs > 0


def test_the_words_before_the_answer_are_those_of_the_harness(make: Any, tokenizer_folder: Path) -> None:
    ruler.prepare()
    from lm_eval.tasks.ruler.niah_utils import TEMPLATE
    from lm_eval.tasks.ruler.prepare_niah import generate_samples

    settings = {"max_seq_length": 2048, "num_samples": 1, "template": TEMPLATE, "type_haystack": "repeat"}
    hay, tokenizer = "Here we go. There and back again.", load_measure({"tokenizer": str(tokenizer_folder)}).tokenizer
    for kind, more in (("niah_single_3", {}), ("niah_multivalue", {"num_needle_v": 4})):
        values = ruler.NEEDLES[kind]["values"]
        (theirs,) = generate_samples(hay, tokenizer, type_needle_k="words", type_needle_v=values, **settings, **more)
        asked = re.search(r"for (\S+) mentioned in the provided text\?$", theirs["input"])
        ours = make(kind)[0]["prompt"]
        own = re.search(r"for (\S+) mentioned in the provided text\? (.*)$", ours)
        assert asked and own
        assert own[2].replace(own[1], asked[1]) == theirs["gen_prefix"]


def test_variable_tracking_has_a_worked_example_where_it_takes_at_most_a_quarter(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ruler, "EXAMPLE_TOKENS", 1000)  # bytes, here
    short, long = (make("vt", lengths=[length])[0]["prompt"] for length in (2047, 2048))
    assert (short.count("Question: Find all"), long.count("Question: Find all")) == (1, 2)


def test_a_chat_model_is_asked_in_its_turn_and_its_answer_begins_with_the_words_of_the_task(
    make: Any, tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tokenizer_folder, tmp_path / "chat"))
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    made = make("cwe", tokenizer=str(folder), chat_template=True)[0]
    assert made["prompt"].startswith("<user>Below is a numbered list of words.")
    assert made["prompt"].endswith(
        "list?</><assistant>Answer: The top 10 words that appear most often in the list are:"
    )
    measure = load_measure({"tokenizer": str(folder), "chat_template": True})
    assert len(measure.tokenizer(made["prompt"]).input_ids) + 120 <= 2048


def test_questions_need_their_published_file_and_any_of_their_answers_counts(
    make: Any, long_context_data: Path, tmp_path: Path
) -> None:
    found = make("qa_squad", data=str(long_context_data))
    assert len(found) == 2 and "lies by the river 3." in found[0]["prompt"]
    assert ruler.process_results(found[0], ["It is number 3, I think."])["string_match"] == 1
    with pytest.raises(UserError, match=r"qa_squad reads dev-v2\.0\.json, which is not bundled; .* --data DIR"):
        make("qa_squad", data=str(tmp_path))
    (tmp_path / "dev-v2.0.json").write_text('{"data": [{"title": "x"}]}')
    with pytest.raises(UserError, match="it has other keys"):
        make("qa_squad", data=str(tmp_path))
    (tmp_path / "dev-v2.0.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    ruler.read_questions.cache_clear()
    with pytest.raises(UserError, match="Git LFS pointer"):
        make("qa_squad", data=str(tmp_path))


def test_the_largest_size_that_fits_is_found_within_its_bounds() -> None:
    for limit in (0, 3, 7, 64, 1000):
        found = sized.largest(lambda units, limit=limit: units <= limit, fewest=3, most=500)  # type: ignore[misc]
        assert found == 0 if limit < 3 else 0.97 * min(limit, 500) <= found <= min(limit, 500)
