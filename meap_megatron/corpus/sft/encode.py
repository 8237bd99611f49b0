"""Spans to ids and roles: the runs of a whole batch of rows are encoded together."""

import functools

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.encode import SpotCheck, make_encoder
from meap_megatron.corpus.sft.spans import Known, Span, TextRun, inner_definition
from meap_megatron.indexed.roles import ANSWER, END, PROMPT, UNMASKED
from meap_megatron.tokenizer.parsed import parsed

Row = tuple[NDArray[np.uint32], NDArray[np.uint8]]
PRECEDENCE = (ANSWER, UNMASKED, END, PROMPT)
"""A token that holds characters of several roles has the first of these."""


class PieceEncoder:
    """Encode rows with one tokenizer.

    Args:
        name: "gigatoken" or "tokenizers".
        definition: text of a tokenizer.json in which the special tokens are plain text.
    """

    def __init__(self, name: str, definition: str) -> None:
        definitions = {True: definition, False: inner_definition(definition)}
        # Mostly both are one, and then there is one encoder.
        checks = {text: SpotCheck(make_encoder(name, text), text) for text in definitions.values()}
        self._checks = {first: checks[text] for first, text in definitions.items()}
        # Kept: to find one again by its definition compares megabytes of text.
        self._references = {first: parsed(text) for first, text in definitions.items()}

    def encode(self, rows: list[list[Span]]) -> tuple[list[Row], int]:
        """Return uint32[n] ids and uint8[n] roles of each row, and how many bytes of text the rows hold.

        Raises:
            RunError: the fast encoder and the reference disagree.
        """
        found: dict[tuple[bool, str], NDArray[np.uint32]] = {}
        for first, check in self._checks.items():
            wanted = {
                span.text: None
                for row in rows
                for span in row
                if isinstance(span, TextRun) and span.first == first and len(span.roles) == 1
            }
            if wanted:
                texts = [text.encode("utf-8") for text in wanted]
                check.check(texts)
                found |= zip([(first, text) for text in wanted], check.fast.encode(texts), strict=True)
        num_bytes = sum(len(span.text.encode("utf-8")) for row in rows for span in row if isinstance(span, TextRun))
        return [self._join(row, found) for row in rows], num_bytes

    def _join(self, row: list[Span], found: dict[tuple[bool, str], NDArray[np.uint32]]) -> Row:
        ids: list[NDArray[np.uint32]] = []
        roles: list[int] = []  # of each array, or of each token of a run that holds several
        repeats: list[int] = []
        for span in row:
            if isinstance(span, Known):
                ids.append(_single(span.token_id))
                roles.append(span.role)
                repeats.append(1)
            elif len(span.roles) == 1:
                ids.append(found[span.first, span.text])
                roles.append(span.roles[0][1])
                repeats.append(len(ids[-1]))
            else:
                some_ids, some_roles = self._align(span)
                ids.append(some_ids)
                roles += some_roles
                repeats += [1] * len(some_roles)
        return np.concatenate(ids, dtype=np.uint32), np.repeat(np.array(roles, dtype=np.uint8), repeats)

    def _align(self, run: TextRun) -> tuple[NDArray[np.uint32], list[int]]:
        """Encode a run of several roles by the reference, which tells the characters of each token."""
        encoding = self._references[run.first].encode(run.text, add_special_tokens=False)
        characters = bytearray()
        for stop, role in run.roles:
            characters += bytes([role]) * (stop - len(characters))
        roles = []
        for start, stop in encoding.offsets:
            held = characters[min(start, len(characters) - 1) : max(stop, start + 1)]
            roles.append(next(role for role in PRECEDENCE if role in held))
        return np.array(encoding.ids, dtype=np.uint32), roles


@functools.cache
def _single(token_id: int) -> NDArray[np.uint32]:
    return np.array([token_id], dtype=np.uint32)
