"""The texts of the region analysis: the four of the paper, and fact/question items made from a table of templates.

An item is context before the answer, the answer, context after it, and a question about the answer. The invented names
keep a model from answering out of its memory.
"""

from dataclasses import dataclass

import numpy as np

from meap_megatron.errors import UserError

REGIONS = ("before", "answer", "after", "query", "eos")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One text in its parts; the EOS token comes after it."""

    name: str
    before: str
    answer: str
    after: str
    query: str

    def joined(self) -> tuple[str, tuple[int, int, int, int]]:
        """Return the text, and where its four regions end, in characters.

        Parts are joined by single spaces, except before a comma; the space belongs to the part after it, because most
        tokenizers put it there.
        """
        text, ends = "", []
        for part in (self.before, self.answer, self.after, self.query):
            text += part if not text or part.startswith(",") else f" {part}"
            ends.append(len(text))
        return text, (ends[0], ends[1], ends[2], ends[3])


PAPER_ITEMS = (
    Item(
        name="figure_6",
        before="In the heart of Paris, the Eiffel Tower stands tall, symbolizing both the city and the entire country.",
        answer="Designed by Gustave Eiffel",
        after=", it was completed in 1889 for the World's Fair. Originally criticized for its unusual design, it has "
        "since become one of the most recognizable landmarks in the world. Tourists from all over the globe visit it "
        "every year, making it one of the most photographed monuments.",
        query="question: Who designed the Eiffel Tower?",
    ),
    Item(
        name="table_16",
        before="The Great Wall of China, stretching over 13,000 miles, is one of the most impressive feats of ancient "
        "engineering.",
        answer="Built to protect Chinese states from invasions",
        after="the wall took several dynasties over 2,000 years to complete. Its immense length and historical "
        "significance make it a popular tourist attraction today. The wall's construction involved countless workers, "
        "many of whom faced difficult conditions.",
        query="question:What was the purpose of the Great Wall of China?",
    ),
    Item(
        name="table_17",
        before="In the early 20th century, Albert Einstein introduced his theory of relativity, which changed the way "
        "we understand space, time, and gravity.",
        answer="His famous equation, E=mc^2",
        after="shows the relationship between energy and mass. Einstein's ideas revolutionized physics, and his work "
        "led to the development of technologies like GPS and nuclear energy. Despite facing initial skepticism, his "
        "theories were eventually proven through experiments and observations, earning him a Nobel Prize in Physics "
        "in 1921.",
        query="question:What famous equation did Albert Einstein create?",
    ),
    Item(
        name="table_18",
        before="At the center of Rome, the Colosseum rises as a magnificent testament to ancient Roman architecture, "
        "symbolizing the grandeur of the Roman Empire.",
        answer="Constructed between 70 and 80 AD under the emperors Vespasian and Titus,",
        after="it was used for gladiatorial contests and public spectacles. Once a symbol of Roman power, the "
        "Colosseum has weathered centuries of change but remains one of the most iconic structures in the world. "
        "Tourists flock to see it every year, making it one of the most photographed monuments in history.",
        query="question:Who built the Colosseum?",
    ),
)
PAPER_SHARES: dict[str, dict[str, tuple[float | None, ...]]] = {
    "figure_6": {"meap": (0.491, 0.345, None, None, None), "ntp": (0.731, 0.094, None, None, None)},
    "table_16": {"meap": (0.491, 0.329, 0.078, 0.067, 0.069), "ntp": (0.731, 0.108, 0.080, 0.070, 0.071)},
    "table_17": {"meap": (0.435, 0.386, 0.066, 0.057, 0.055), "ntp": (0.694, 0.115, 0.074, 0.060, 0.057)},
    "table_18": {"meap": (0.579, 0.219, 0.071, 0.063, 0.068), "ntp": (0.748, 0.065, 0.067, 0.050, 0.069)},
}
"""Printed shares in the order of `REGIONS`; None where the figure gives only "about 5 to 6 %". Table 16 prints .80 for
NTP after the answer, read here as .080; its first column repeats Figure 6's."""

FIRST = (
    "Adela Bram Corin Davit Elska Farid Greta Halim Ines Joren Kaya Lorin Mirela Nadim Oda Pavel Rusa Stellan".split()
)
LAST = (
    "Abeling Brandt Castell Dorje Evander Farrow Galdos Hartwin Iversen Jankov Kestrel Lindqvist Maro Norwell".split()
)
PLACES = (
    "Aldermoor Bexley Cardona Dunvale Eskmouth Fenwick Garrow Hollin Istrad Jarrow Kelsby Lomond Merrow Norby Orrin "
    "Pellam Quarley Rosmere Selby Tarrant"
).split()
MATERIALS = "granite,larch wood,red brick,wrought iron,white limestone,oak,copper sheet,slate".split(",")
TRADES = "clockmaker,surveyor,glassblower,schoolteacher,shipwright,botanist,printer,stonemason".split(",")

TEMPLATES: tuple[tuple[str, str, str, str], ...] = (
    (
        "The {place} bridge crosses the river just below the old mill, and every child of the town has fished from it.",
        "Drawn up by the engineer {person}",
        ", it took four summers to finish. Ice carried away the first scaffold. Today the bridge bears a tram line and "
        "two footpaths, and painters sit along its railing in spring.",
        "question: Who was the engineer of the {place} bridge?",
    ),
    (
        "On the square of {place} stands a clock tower that can be heard in all the villages around.",
        "Its walls are made of {material}",
        "and have outlived three fires. The bells were cast elsewhere and came up the valley on sledges. A keeper still "
        "winds the clock by hand every morning.",
        "question: What are the walls of the clock tower of {place} made of?",
    ),
    (
        "The museum of {place} owns a small collection of maps, most of them drawn before there were roads.",
        "It opened its doors in {year}",
        "with a single room and a borrowed lamp. School classes come on Thursdays. Visitors ask most often for the map on "
        "which the lake is missing.",
        "question: In which year did the museum of {place} open?",
    ),
    (
        "Few people outside the region know the cheese of {place}, which is sold in cloth and eaten with pears.",
        "The recipe goes back to {person}, a {trade}",
        "who had no cows and bought the milk at the market. The dairy now employs thirty people. It keeps one wheel of "
        "every year in a cellar under the chapel.",
        "question: Who invented the cheese of {place}?",
    ),
    (
        "The lighthouse at {place} guides the herring boats home, and in winter it is the only light on the coast.",
        "Its lamp stands {number} metres above the sea",
        "at the end of a narrow stair. The last keeper left when the machinery became automatic. Guests may now sleep in "
        "the room where he wrote his log.",
        "question: How high above the sea is the lamp of the lighthouse at {place}?",
    ),
    (
        "Anyone who walks from {place} to the coast passes a garden full of plants that should not grow so far north.",
        "It was laid out by {person}",
        ", who carried the seeds home in the lining of a coat. A wall of loose stones keeps out the wind. The oldest tree "
        "blooms for only three days.",
        "question: Who laid out the garden near {place}?",
    ),
    (
        "The mountain railway of {place} climbs through two tunnels and a forest before it reaches the pass.",
        "The journey takes {number} minutes",
        "if there is no snow on the upper track. The carriages are heated with stoves. Farmers use the first train of the "
        "day to bring milk down to the valley.",
        "question: How many minutes does the journey on the mountain railway of {place} take?",
    ),
    (
        "Each autumn the people of {place} close the main street and set long tables from one end to the other.",
        "The feast remembers {person}",
        ", and nobody is asked to pay. Neighbouring towns send musicians. When the lamps are lit, the youngest guest "
        "reads a short speech that changes every year.",
        "question: Whom does the feast of {place} remember?",
    ),
    (
        "The harbour of {place} was once so shallow that ships had to wait for the tide to unload.",
        "In {year} it was dug deeper",
        "by crews who worked at night. The mud went to the fields behind the dyke. Since then the fish market has moved "
        "twice, and a school for sailors has taken its place.",
        "question: In which year was the harbour of {place} dug deeper?",
    ),
    (
        "The library of {place} lends not only books but also tools, seeds and musical instruments.",
        "The idea came from {person}, a {trade}",
        "with a long list of friends and a small house. Nothing has ever been stolen. The most wanted object is a ladder "
        "that reaches the second floor.",
        "question: Who had the idea for the library of {place}?",
    ),
    (
        "Divers found a sunken ferry off {place}, lying upright on the sand as if it were still at the pier.",
        "Its hull was built of {material}",
        "and has hardly suffered. The cargo was mostly salt, which is long gone. A model of the ferry hangs in the church, "
        "where the crew is named on a plate.",
        "question: What was the hull of the ferry off {place} built of?",
    ),
    (
        "The orchestra of {place} rehearses in a former railway shed, because no other room is large enough.",
        "It was founded by {person}",
        ", who conducted with a pencil. The players are bakers, nurses and one retired judge. Their concert at midsummer is "
        "sold out within an hour.",
        "question: Who founded the orchestra of {place}?",
    ),
)
"""(before, answer, after, query) with slots."""


def templated_items(count: int, *, seed: int) -> list[Item]:
    """Return different items, the same for the same count and seed.

    Raises:
        UserError: more were asked for than the table can make.
    """
    most = len(TEMPLATES) * len(PLACES) * 8
    if count > most:
        raise UserError(
            f"{count:,} templated items were asked for, the table makes {most:,}", fix="give --limit up to that"
        )
    random = np.random.default_rng([seed, 6])
    items: dict[tuple[str, str, str, str], Item] = {}

    def one(choices: list[str]) -> str:
        return choices[int(random.integers(len(choices)))]

    while len(items) < count:
        # Every template equally often.
        number = len(items) % len(TEMPLATES)
        slots = {
            "place": one(PLACES),
            "person": f"{one(FIRST)} {one(LAST)}",
            "material": one(MATERIALS),
            "trade": one(TRADES),
            "year": str(random.integers(1740, 1960)),
            "number": str(random.integers(12, 95)),
        }
        filled = tuple(part.format(**slots) for part in TEMPLATES[number])
        if filled not in items:
            before, answer, after, query = filled
            name = f"template_{number}_{len(items)}"
            items[before, answer, after, query] = Item(
                name=name, before=before, answer=answer, after=after, query=query
            )
    return list(items.values())
