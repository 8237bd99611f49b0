"""Needle in a haystack: one sentence hidden in essays at a depth, asked for at the end (paper, Table 2 and Figure 3).

The haystack is built as Kamradt's test does: the essays are cut to a number of tokens, and the needle goes behind the
last full stop before its depth. A sample of length L fills L tokens at most, prompt, BOS and answer together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_length import Measure, load_measure
from meap_megatron.evaluation.retrieval import documents, metrics, published
from meap_megatron.evaluation.retrieval.haystack import cut, essay_tokens, find_essays, place_of

LENGTHS = tuple(k * 1024 for k in (1, 2, 4, 8, 12, 16, 20, 24, 28, 32))  # tokens
DEPTHS = tuple(range(0, 101, 10))  # percent
VARIANTS = 3
"""Samples of a cell by default: variant v hides needle v in essays that begin v/VARIANTS further on."""
NEW_TOKENS = 50
RESERVE = 200  # tokens that the published test keeps free for the prompt around the haystack and the answer
FU_PROMPT = (
    "<|im_start|> This is a very long story book: <book> {context} </book>.\n"
    " Based on the content of the book, Question: {question}\nAnswer:"
)
PROMPTS = {"fu": FU_PROMPT, "plain": FU_PROMPT.removeprefix("<|im_start|> "), "published": FU_PROMPT}
"""`published` has the haystack as well as the published code makes it (`published`), the others as `fill` does."""


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A sentence to hide, the question for it, the answer, and the words that a strict hit must hold."""

    text: str
    question: str
    answer: str
    keywords: tuple[str, str]


NEEDLES = (
    Needle(
        text="The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.",
        question="What is the best thing to do in San Francisco?",
        answer="eat a sandwich and sit in Dolores Park on a sunny day",
        keywords=("sandwich", "dolores park"),
    ),
    Needle(
        text="The quickest way to reach the lighthouse of Grimsey is to borrow a bicycle from the baker at low tide.",
        question="What is the quickest way to reach the lighthouse of Grimsey?",
        answer="borrow a bicycle from the baker at low tide",
        keywords=("bicycle", "baker"),
    ),
    Needle(
        text="The secret of the soup in Valparaiso is a pinch of smoked paprika stirred in with a wooden spoon.",
        question="What is the secret of the soup in Valparaiso?",
        answer="a pinch of smoked paprika stirred in with a wooden spoon",
        keywords=("paprika", "wooden spoon"),
    ),
    Needle(
        text="The oldest clock in Tartu is wound every Thursday by a retired violinist named Helve.",
        question="By whom is the oldest clock in Tartu wound?",
        answer="a retired violinist named Helve",
        keywords=("violinist", "helve"),
    ),
    Needle(
        text="The rarest stamp in the museum of Oaxaca shows a green parrot holding a silver key.",
        question="What does the rarest stamp in the museum of Oaxaca show?",
        answer="a green parrot holding a silver key",
        keywords=("parrot", "silver key"),
    ),
)


def build(**metadata: Any) -> dict[str, Any]:
    """Make the samples of `meap_needle`; the harness calls this with model arguments and `--metadata`.

    Args:
        metadata: `lengths`, `depths`, `variants`, `essays`, `prompt` (fu, plain or published), and what names the model.

    Raises:
        UserError: essays, tokenizer or a setting cannot be used.
    """
    lengths = documents.numbers(metadata.get("lengths", LENGTHS), name="lengths")
    depths = documents.numbers(metadata.get("depths", DEPTHS), name="depths", kind=float)
    if max(depths) > 100:
        raise UserError(f"depths are percent of the haystack, at most 100; found {max(depths):g}")
    variants = documents.count(metadata.get("variants", VARIANTS), name="variants") or VARIANTS
    # Fu et al.'s form begins with a mark of a conversation that it never closes: not inside a conversation.
    prompt = metadata.get("prompt", "plain" if metadata.get("chat_template") else "fu")
    if prompt not in PROMPTS:
        raise UserError(f"prompt must be one of {', '.join(PROMPTS)}, found {prompt!r}")
    essays = find_essays(metadata.get("essays"))
    measure = load_measure(metadata)
    longest = max(lengths) if prompt == "published" else None
    built: list[dict[str, Any]] = []
    for length in lengths:
        for variant in range(variants):
            built += cell_samples(
                measure,
                essays,
                length=length,
                depths=depths,
                variant=variant,
                variants=variants,
                template=PROMPTS[prompt],
                longest=longest,
            )
    return documents.dataset(built, task="meap_needle")


def cell_samples(
    measure: Measure,
    essays: Path,
    *,
    length: int,
    depths: list[float],
    variant: int,
    variants: int,
    template: str,
    longest: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the samples of one length and variant: one for each depth, and one without the needle (the floor).

    Args:
        length: tokens of prompt and answer together.
        depths: percent.
        variant: which needle, and where the haystack begins.
        template: prompt with `{context}` and `{question}`.
        longest: greatest length of the test, for haystacks of the published form; None: those of `fill`.
    """
    needle = NEEDLES[variant % len(NEEDLES)]
    fits = measure.limit is None or length <= measure.limit
    own_form = fits and longest is None
    tokens = [token for essay in essay_tokens(essays, measure) for token in essay] if own_form else []
    start = len(tokens) * variant // variants
    for depth in [*depths, None]:
        prompt = None
        if own_form:
            prompt = fill(measure, tokens, needle, length=length, depth=depth, start=start, template=template)
        elif fits and longest is not None:
            hay = published.haystack(measure, essays, length=length, longest=longest, begin=(variant, variants))
            context = published.context(measure, hay, f"\n{needle.text}\n", room=length - RESERVE, depth=depth)
            prompt = template.format(context=context, question=needle.question)
            prompt = prompt if measure.fits(prompt, new_tokens=NEW_TOKENS) else None
        yield {
            "prompt": documents.PLACEHOLDER if prompt is None else measure.wrap(prompt),
            "answer": needle.answer,
            "needle": needle.text,
            "keywords": list(needle.keywords),
            "length": length,
            "depth": -1.0 if depth is None else float(depth),
            "variant": variant,
            "fits": prompt is not None,
        }


def fill(
    measure: Measure, tokens: list[int], needle: Needle, *, length: int, depth: float | None, start: int, template: str
) -> str:
    """Build one prompt of at most `length - NEW_TOKENS` tokens.

    Args:
        tokens: the essays.
        length: tokens of prompt and answer together.
        depth: percent of the haystack before the needle; None hides nothing.
        start: token of the essays with which the haystack begins.
        template: prompt with `{context}` and `{question}`.

    Raises:
        UserError: the length leaves no room for the needle.
    """
    hidden = "" if depth is None else f"\n{needle.text}\n"
    frame = measure.count(template.format(context=hidden, question=needle.question)) + NEW_TOKENS
    reserve = max(RESERVE + len(measure.encode(f"\n{needle.text}\n")), frame)

    def around(budget: int) -> str:
        context = insert(measure, cut(tokens, length=budget, start=start), hidden, depth=depth)
        return template.format(context=context, question=needle.question)

    if (prompt := measure.longest(around, length=length, reserve=reserve, new_tokens=NEW_TOKENS)) is not None:
        return prompt
    raise UserError(
        f"length {length} is too short for a needle: this tokenizer needs {reserve} tokens for needle, question and "
        f"answer",
        fix=f"use lengths from {2 ** (reserve - 1).bit_length()} on",
    )


def insert(measure: Measure, haystack: list[int], needle: str, *, depth: float | None) -> str:
    """Return the haystack as text with the needle behind the last full stop before its depth.

    Depth 100 appends the needle; where no full stop comes before it, the needle goes to the front.
    """
    if depth is None:
        return measure.decode(haystack)
    place = place_of(measure, haystack, depth)
    return measure.decode(haystack[:place]) + needle + measure.decode(haystack[place:])


@documents.scored
def process_results(document: Mapping[str, Any], said: str) -> dict[str, float]:
    """Score one answer in every way that the paper's "ROUGE-1" may mean; see docs/evaluation.md."""
    recall = metrics.rouge1_recall(said, document["answer"])
    if document["depth"] < 0:
        # Without its needle the answer can only be guessed: what this scores is the floor of the metric.
        return {"no_needle_recall": recall}
    published = {"published_needle_recall": recall} if document["variant"] == 0 else {}
    return {
        "rouge1_recall": recall,
        **published,
        "rouge1_f1_needle": metrics.rouge1_f1(said, document["needle"]),
        "set_overlap": metrics.set_overlap(said, document["answer"]),
        "strict_hit": metrics.strict_hit(said, document["keywords"]),
    }
