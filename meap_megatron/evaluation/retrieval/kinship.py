"""Chains of family relations: the offline questions of multi-needle reasoning. A pure function of seed and index."""

import random
from typing import Any

FIRST = (
    "Aldis Benka Corvin Dorte Eivor Fabrice Gisela Halvar Imre Jorun Kasimir Liselot Mirek Nadezh Odile Piotr Quirin "
    "Rasmus Solveig Tiberiu Ulrika Vasile Wenzel Xenia Ysolde Zoltan"
).split()
LAST = (
    "Abernathy Bjornstad Castellan Dragomir Eisenhart Fairweather Gwozdecky Holmquist Ivanescu Jablonski Kirkebride "
    "Lindqvist Marchetti Novotny Osterhaus Petrescu Quillfeather Rosenkrantz Szymanski Thorvald Uhlenbeck Vandermeer "
    "Wojcik Yarborough Zellweger Hawthorne"
).split()
SENTENCES = (
    "{elder} is the {relation} of {younger}.",
    "The {relation} of {younger} is {elder}.",
    "{younger} has {elder} as {relation}.",
)


def generate(num_needles: int, *, seed: int, index: int) -> dict[str, Any]:
    """Make a question that needs `num_needles` sentences, in the fields of the published records.

    Given three needles, then four people, each the parent of the next; the sentences are in random order and the
    answer is the first of the four. No two people share a name, so that a half-right answer scores a half.
    """
    draw = random.Random(f"kinship {seed} {num_needles} {index}")
    first, last = draw.sample(FIRST, num_needles + 1), draw.sample(LAST, num_needles + 1)
    people = [f"{given} {family}" for given, family in zip(first, last, strict=True)]
    sentences = [
        draw.choice(SENTENCES).format(elder=elder, younger=younger, relation=draw.choice(("father", "mother")))
        for elder, younger in zip(people, people[1:], strict=False)
    ]
    draw.shuffle(sentences)
    return {
        "question": f"Who is the eldest ancestor of {people[-1]} that the document names?",
        "answer": people[0],
        "derivations": sentences,
        "derivation_count": num_needles,
    }
