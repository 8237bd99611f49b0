"""RULER (Hsieh et al., 2024) by the generators of lm-evaluation-harness, at any length from 512 tokens on, offline.

Each sample is drawn by the harness's own function; its size, the model's chat template and the seed are ours (`sized`).
Below 4,096 tokens the word lists are those that the harness makes for short samples; below 2,048 variable tracking has no
worked example, which alone takes 500 tokens.
"""

import atexit
import hashlib
import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import data_folder, find, read_json
from meap_megatron.evaluation.prompt_length import Measure, load_measure
from meap_megatron.evaluation.retrieval import documents, sized
from meap_megatron.evaluation.retrieval.haystack import describe_essays, find_essays, read_essays
from meap_megatron.evaluation.retrieval.sized import Draft, Maker

LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)  # tokens
SAMPLES = 500
FEWEST_CODED = 64
"""Words of coded text from which on the three most frequent words are told apart from the fourth."""
FEWEST_NOISES = 6
"""Repeats of the noise from which on variable tracking has room for its whole chain."""
EXAMPLE_FROM, EXAMPLE_TOKENS = 2048, 470
NEEDLES: dict[str, dict[str, Any]] = {
    "niah_single_1": {"hay": "repeat", "keys": "words", "values": "numbers"},
    "niah_single_2": {"hay": "essay", "keys": "words", "values": "numbers"},
    "niah_single_3": {"hay": "essay", "keys": "words", "values": "uuids"},
    "niah_multikey_1": {"hay": "essay", "keys": "words", "values": "numbers", "num_keys": 4},
    "niah_multikey_2": {"hay": "needle", "keys": "words", "values": "numbers"},
    "niah_multikey_3": {"hay": "needle", "keys": "uuids", "values": "uuids"},
    "niah_multivalue": {"hay": "essay", "keys": "words", "values": "numbers", "num_values": 4},
    "niah_multiquery": {"hay": "essay", "keys": "words", "values": "numbers", "num_keys": 4, "num_queries": 4},
}
QUESTIONS = {"qa_squad": "dev-v2.0.json", "qa_hotpot": "hotpot_dev_distractor_v1.json"}
"""Task -> the published file that it needs."""


def build(*, kind: str, **metadata: Any) -> dict[str, Any]:
    """Make the samples of one task; the harness calls this with the task's and the run's settings.

    Args:
        kind: RULER's name of the task.
        metadata: `lengths`, `samples` (of each length), `seed`, `essays`, `data` (folder of the QA files), and what names
            the model.

    Raises:
        UserError: a package, data, tokenizer or a setting cannot be used.
    """
    lengths = documents.numbers(metadata.get("lengths", LENGTHS), name="lengths")
    samples = documents.count(metadata.get("samples"), name="samples") or SAMPLES
    (seed,) = documents.numbers(metadata.get("seed", 0), name="seed")
    measure = load_measure(metadata)
    key: dict[str, Any] = {"task": kind, "lm_eval": version("lm_eval"), "sentences": prepare()}
    key["words"] = version("wonderwords")
    if kind in NEEDLES:
        essays = find_essays(metadata.get("essays")) if NEEDLES[kind]["hay"] == "essay" else None
        key["essays"] = describe_essays(essays)["sha256"] if essays else None
        words = re.sub(r"\s+", " ", " ".join(read_essays(essays))).split(" ") if essays else None
        maker: Callable[[int], Maker] = partial(needle_maker, kind, words)
    elif kind in QUESTIONS:
        questions, passages = read_questions(kind, data_folder(metadata.get("data")))
        samples = min(samples, len(questions))
        key["data"] = hashlib.sha256(json.dumps([questions, passages]).encode()).hexdigest()
        maker = partial(question_maker, questions, passages)
    else:
        maker = partial(MAKERS[kind], measure)
    built = sized.build(maker, measure, lengths=lengths, samples=samples, seed=seed, key=key)
    return documents.dataset([{**sample, "kind": kind} for sample in built], task=f"RULER {kind}")


@cache
def prepare() -> str:
    """Make the harness's generators importable without a network; return which splitter finds the ends of sentences.

    The harness downloads NLTK's Punkt when it is imported. Where that is not installed, a Punkt without learnt
    abbreviations is put in its place: sentences only decide where in an essay a needle may be.

    Raises:
        UserError: `wonderwords` or `nltk` is missing.
    """
    try:
        import nltk
        import wonderwords  # noqa: F401
        from nltk.tokenize import punkt
    except ImportError as error:
        raise UserError(f"RULER needs the package {error.name}", fix="pip install 'meap-megatron[eval]'") from None
    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        folder = tempfile.mkdtemp(prefix="meap-punkt-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        nltk.data.path.append(folder)
        tables = Path(folder) / "tokenizers" / "punkt_tab"
        tables.mkdir(parents=True, mode=0o700)
        punkt.save_punkt_params(punkt.PunktParameters(), str(tables / "english"))
        return "Punkt without abbreviations"
    return "punkt_tab"


def needle_maker(kind: str, words: Sequence[str] | None, length: int) -> Maker:
    """Return how the samples of a needle task are made.

    Args:
        kind: one of `NEEDLES`.
        words: of the essays, for the tasks that hide needles in essays.
        length: tokens.
    """
    from lm_eval.tasks.ruler import niah_utils, prepare_niah

    task = NEEDLES[kind]
    values, num_queries = task["values"], task.get("num_queries", 1)
    needles = task.get("num_keys", 1) * task.get("num_values", 1)
    # A word is at least a token: so many words are enough for any length.
    hay = list(words) * -(-length // len(words)) if words else prepare_niah.get_haystack(task["hay"])

    def draw(units: int, index: int) -> Draft:
        question, answers, query = prepare_niah.generate_input_output(
            units,
            hay,
            type_haystack=task["hay"],
            num_needle_k=task.get("num_keys", 1),
            type_needle_k=task["keys"],
            num_needle_v=task.get("num_values", 1),
            type_needle_v=values,
            template=niah_utils.TEMPLATE,
            num_needle_q=num_queries,
        )
        one = num_queries * task.get("num_values", 1) == 1
        start = (
            f"The special magic {values[:-1] if one else values} for {query} mentioned in the provided text "
            f"{'is' if one else 'are'}"
        )
        return Draft(question=question, outputs=answers, start=start)

    return Maker(draw=draw, fewest=lambda index: needles, most=length, new_tokens=128)


def split_prompt(text: str, answer_start: str, outputs: list[str], *, joint: str = " ") -> Draft:
    """Cut a prompt of the harness where its answer begins."""
    place = text.rindex(answer_start.split("{")[0])
    return Draft(question=text[:place].strip(), outputs=outputs, start=text[place:].strip(), joint=joint)


def chain_maker(measure: Measure, length: int) -> Maker:
    """Return how the samples of variable tracking are made."""
    from lm_eval.tasks.ruler import vt_utils

    config = vt_utils.CONFIG["variable_tracking"]

    def drawn(units: int, *, example: bool) -> tuple[str, list[str]]:
        return vt_utils.generate_input_output(units, 1, 4, is_icl=example)

    def solved(units: int) -> str:
        text, outputs = drawn(units, example=True)
        return f"{text} {' '.join(outputs)}\n\n"

    example = ""
    if length >= EXAMPLE_FROM:

        def fits(units: int) -> bool:
            with sized.seeded(0):
                return measure.count(solved(units)) <= EXAMPLE_TOKENS

        if size := sized.largest(fits, fewest=FEWEST_NOISES, most=EXAMPLE_TOKENS):
            with sized.seeded(0):
                example = solved(size)

    def draw(units: int, index: int) -> Draft:
        text, outputs = drawn(units, example=False)
        shown = vt_utils.randomize_icl(example) + "\n\n" if example else ""
        return split_prompt(shown + text, config["answer_prefix"], outputs)

    return Maker(draw=draw, fewest=lambda index: FEWEST_NOISES, most=length, new_tokens=30)


def common_words_maker(measure: Measure, length: int) -> Maker:
    """Return how the samples of common word extraction are made."""
    from lm_eval.tasks.ruler import cwe_utils

    def draw(units: int, index: int) -> Draft:
        cwe_utils.RNG.seed(random.random())
        _, text, outputs = cwe_utils.generate_input_output(units, length)
        return split_prompt(text, cwe_utils.CONFIG["answer_prefix"], outputs, joint="\n\n")

    return Maker(draw=draw, fewest=lambda index: 11, most=len(cwe_utils.WORDS), new_tokens=120)


def frequent_words_maker(measure: Measure, length: int) -> Maker:
    """Return how the samples of frequent word extraction are made."""
    from lm_eval.tasks.ruler import fwe_utils

    def draw(units: int, index: int) -> Draft:
        # The generator shrinks a text until it fits, which is done here: it is told that it fits.
        text, outputs, _ = fwe_utils.generate_input_output(
            1, lambda text: SimpleNamespace(input_ids=()), num_words=units, vocab_size=max(length // 50, 10)
        )
        return split_prompt(text, fwe_utils.CONFIG["answer_prefix"], outputs)

    return Maker(draw=draw, fewest=lambda index: FEWEST_CODED, most=length, new_tokens=50)


MAKERS = {"vt": chain_maker, "cwe": common_words_maker, "fwe": frequent_words_maker}


def question_maker(questions: Sequence[Mapping[str, Any]], passages: Sequence[str], length: int) -> Maker:
    """Return how the samples of question answering are made: passages around those that hold the answer."""
    from lm_eval.tasks.ruler import qa_utils

    def draw(units: int, index: int) -> Draft:
        text, outputs = qa_utils.generate_input_output(index, units, questions, passages)
        return Draft(question=text, outputs=outputs, start=qa_utils.CONFIG["answer_prefix"])

    # With all passages the generator would shuffle the list that the questions refer to.
    return Maker(
        draw=draw,
        fewest=lambda index: len(questions[index]["context"]),
        most=len(passages) - 1,
        new_tokens=32,
    )


@lru_cache(maxsize=2)
def read_questions(kind: str, folder: Path | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the questions of a published file and its passages.

    Raises:
        UserError: the file is not there, or is another one.
    """
    name = QUESTIONS[kind]
    path = find(folder, name) if folder else None
    if path is None:
        raise UserError(f"RULER {kind} reads {name}, which is not bundled", fix="give its folder with --data DIR")
    content = read_json(path)
    try:
        if kind == "qa_squad":
            # Passages of the same article come first among the distractors.
            entries = [
                (
                    one["question"],
                    [answer["text"] for answer in one["answers"]],
                    [paragraph["context"]],
                    [other["context"] for other in article["paragraphs"] if other["context"] != paragraph["context"]],
                )
                for article in content["data"]
                for paragraph in article["paragraphs"]
                for one in paragraph["qas"]
                if not one["is_impossible"]
            ]
            passages = sorted({each["context"] for article in content["data"] for each in article["paragraphs"]})
        else:
            entries = [
                (one["question"], [one["answer"]], [f"{title}\n{''.join(text)}" for title, text in one["context"]], [])
                for one in content
            ]
            passages = sorted({text for *_, texts, _ in entries for text in texts})
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not {name} as published: it has other keys", fix="copy the file again") from None
    number = {text: place for place, text in enumerate(passages)}
    questions = [
        {
            "query": question,
            "outputs": answers,
            "context": [number[text] for text in texts],
            "more_context": [number[text] for text in others],
        }
        for question, answers, texts, others in entries
    ]
    if not questions:
        raise UserError(f"{path} holds no question that has an answer", fix="copy the file again")
    return questions, passages


@documents.scored
def process_results(document: Mapping[str, Any], answer: str) -> dict[str, float]:
    """Score one answer: the share of the expected strings that it contains; for questions, whether it contains any.

    For questions the harness takes the share too, although RULER asks for any: with three spellings of one answer it
    gives a third to who says one of them. Here it is as RULER has it.
    """
    from lm_eval.tasks.ruler.common_utils import postprocess_pred, string_match_all

    said, outputs = postprocess_pred([answer]), document["outputs"]
    if document["kind"] in QUESTIONS:
        return {"string_match": max(string_match_all(said, [[output]]) for output in outputs)}
    return {"string_match": string_match_all(said, [outputs])}
