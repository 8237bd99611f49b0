"""The suites of `meap evaluate`: which tasks, which settings, which cells and which headline. Light to import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

MDQA_POSITIONS = {10: (0, 4, 9), 20: (0, 4, 9, 14, 19)}
"""Number of documents -> published places of the gold document, from 0. The paper counts them from 1."""
KV_POSITIONS = {75: (0, 24, 49, 74), 140: (0, 34, 69, 104, 139)}
"""Number of keys -> published places of the key that is asked for, from 0."""
RULER = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_squad", "qa_hotpot"),
)
"""The 13 tasks of RULER, in its order."""
COMMONSENSE = ("arc_challenge", "arc_easy", "boolq", "piqa", "hellaswag", "winogrande", "openbookqa")
"""In the order of the columns of Table 1."""

Outcome = tuple[list[dict[str, Any]], dict[str, Any]]
"""What running a suite gives: a record for every sample, and what goes into the results document."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One row of the table below."""

    summary: str
    tasks: tuple[str, ...] = ()
    """Harness tasks, for the suites of the harness."""
    headline: str = ""
    """Metric of figures and cells."""
    cell: tuple[str, ...] = ()
    """Fields of a sample that make a cell of a figure."""
    settings: tuple[str, ...] = ()
    """Fields of the request that the tasks take, beside model and seed."""
    options: tuple[str, ...] = ()
    """Other options that the suite reads, beside those of all suites."""
    judged: bool = False
    """Whether it needs a judge: `all` leaves it out without one."""
    pair: bool = False
    """Whether it compares two models: `all` runs it where there is a baseline."""
    chat: bool = False
    """Whether it asks for answers, so that a model trained on conversations is asked through its chat template."""
    needs: tuple[tuple[str, str], ...] = ()
    """Task and published file: without the file in the data folder the task is left out, unless it is named."""
    folder: str = ""
    """Folder of published data in the data folder that the suite needs: `all` leaves it out without one."""
    local: bool = True
    """Whether everything it reads can be on this machine: then it never uses the network."""

    def reads(self, option: str) -> bool:
        """Tell whether an option that not all suites have makes a difference to this one."""
        return option in (*self.settings, *self.options) or (option == "tasks" and bool(self.tasks))


SUITES: dict[str, Suite] = {
    "commonsense": Suite(
        summary="the seven tasks of Tables 1, 5 and 6, zero-shot (needs the harness's data sets)",
        tasks=COMMONSENSE,
        headline="acc",
        local=False,
    ),
    "needle": Suite(
        summary="needle in a haystack (Table 2, Figure 3)",
        tasks=("meap_needle",),
        headline="rouge1_recall",
        cell=("length", "depth"),
        settings=("lengths", "depths", "variants", "essays", "prompt"),
        chat=True,
    ),
    "mdqa": Suite(
        summary="multi-document QA with 10 and 20 documents, and nq-open-oracle (Tables 3, 7, 8, 9)",
        tasks=(
            *(f"meap_mdqa_{number}_gold_at_{place}" for number, places in MDQA_POSITIONS.items() for place in places),
            "meap_nq_open_oracle",
        ),
        headline="best_subspan_em",
        cell=("num_documents", "gold_index"),
        settings=("data", "max_prompt_length"),
        chat=True,
    ),
    "kv": Suite(
        summary="key-value retrieval with 75 and 140 keys",
        tasks=tuple(
            f"meap_kv_{number}_gold_at_{place}" for number, places in KV_POSITIONS.items() for place in places
        ),
        headline="contains_value",
        cell=("num_keys", "gold_index"),
        settings=("data",),
        chat=True,
    ),
    "mrs": Suite(
        summary="multi-needle reasoning, NeedleBench v1 (Figure 4)",
        tasks=tuple(f"meap_mrs_{count}" for count in (2, 3, 4, 5)),
        headline="keyword_fraction",
        cell=("num_needles", "length"),
        settings=("lengths", "depths", "data", "essays"),
        chat=True,
    ),
    "ruler": Suite(
        summary="RULER: 11 tasks that need no data, and two of questions with --data",
        tasks=tuple(f"meap_ruler_{kind}" for kind in RULER),
        headline="string_match",
        cell=("task", "length"),
        settings=("lengths", "data", "essays"),
        needs=(
            ("meap_ruler_qa_squad", "dev-v2.0.json"),
            ("meap_ruler_qa_hotpot", "hotpot_dev_distractor_v1.json"),
        ),
        chat=True,
    ),
    "babilong": Suite(
        summary="BABILong, qa1 to qa5 (needs DATA/babilong)",
        tasks=tuple(f"meap_babilong_qa{number}" for number in range(1, 6)),
        headline="acc",
        cell=("task", "length"),
        settings=("lengths", "data"),
        folder="babilong",
        chat=True,
    ),
    "nolima": Suite(
        summary="NoLiMa: needles that share no words with their question (needs DATA/nolima)",
        tasks=("meap_nolima_onehop", "meap_nolima_twohop"),
        headline="contains_answer",
        cell=("length", "depth"),
        settings=("lengths", "depths", "data"),
        folder="nolima",
        chat=True,
    ),
    "helmet-recall": Suite(
        summary="HELMET's recall tasks: three of RULER, and key-value pairs as many as fit",
        tasks=(
            *("meap_ruler_niah_multikey_2", "meap_ruler_niah_multikey_3", "meap_ruler_niah_multivalue"),
            "meap_json_kv",
        ),
        headline="string_match",
        cell=("task", "length"),
        settings=("lengths", "essays"),
        chat=True,
    ),
    "hallucination": Suite(
        summary="summaries of XSum, MultiNews and WikiSum, compared with human ones by a judge (Table 4)",
        headline="accuracy",
        options=("data", "judge", "judge_concurrency", "template"),
        chat=True,
        judged=True,
    ),
    "text-loss": Suite(
        summary="bits per byte, loss by position and on repeated n-grams, of any text",
        headline="bits_per_byte",
        options=("lengths", "text", "essays"),
    ),
    "attention": Suite(
        summary="Score Decay and Variance Increase of two models (Table 10)",
        headline="decay",
        options=("lengths", "text", "data", "baseline", "mask_ratio", "mask_first"),
        pair=True,
    ),
    "retrieval-heads": Suite(
        summary="which heads copy the needle's answer, in a model or in two (Wu et al., 2024)",
        headline="best",
        settings=("lengths", "depths", "variants", "essays", "prompt"),
        options=("baseline", "mask_ratio"),
        chat=True,
    ),
    "regions": Suite(
        summary="which part of a text its end attends to, in two models (Figure 6, Tables 16 to 18)",
        headline="answer_gain",
        options=("baseline", "eos_token"),
        pair=True,
    ),
}
"""A suite that is not of the harness has a line in `RUNNERS` of `evaluation/run.py` too."""

SOME_READ = (
    *("lengths", "depths", "variants", "prompt", "data", "essays", "max_prompt_length", "tasks", "baseline", "text"),
    *("mask_ratio", "mask_first", "eos_token", "judge", "judge_concurrency", "template"),
)
"""Fields of a request that not every suite reads."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for."""

    model: Path
    out: Path
    limit: int | None = None
    """Samples of every cell, place or task; None is the published number."""
    lengths: list[int] | None = None
    """Tokens; None is the published grid."""
    depths: list[float] | None = None
    """Percent; None is the published grid."""
    variants: int | None = None
    prompt: str | None = None
    data: str | None = None
    essays: str | None = None
    max_prompt_length: int | None = None
    """Tokens; longer MDQA prompts are counted and not scored."""
    max_length: int | None = None
    """Tokens that the model takes, instead of what its config.json says."""
    seed: int = 0
    batch_size: int | str = "auto"
    """Prompts at a time; "auto": as many as the device has room for."""
    backend: str = "hf"
    """`hf` (transformers) or `vllm`."""
    device: str | None = None
    dtype: str = "auto"
    bos: bool | None = None
    chat: bool | None = None
    """Ask through the chat template; None: as the model was trained."""
    tasks: list[str] | None = None
    """Of the suite's tasks; None is all of them."""
    overwrite: bool = False
    baseline: str | None = None
    """Folder of the NTP model that the attention suites compare with."""
    text: str | None = None
    mask_ratio: float | None = None
    mask_first: bool = False
    eos_token: str | None = None
    """Ends the texts of the regions; None: the tokenizer's."""
    judge: list[str] | None = None
    judge_concurrency: int | None = None
    """Questions at a time."""
    template: str | None = None
    """Of the prompts for summaries."""

    def without_effect(self, name: str) -> dict[str, list[str]]:
        """Return the options that were given and that a suite does not read, with the suites that do."""
        ignored = [option for option in SOME_READ if getattr(self, option) and not SUITES[name].reads(option)]
        return {option: [other for other in SUITES if SUITES[other].reads(option)] for option in ignored}

    @property
    def fixed_batch(self) -> int:
        """Batch size of suites that look into the model, which try out no sizes."""
        return 1 if isinstance(self.batch_size, str) else self.batch_size
