"""Pieces to ids and roles: the runs of a whole batch of rows are encoded together."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.encode import Encoder, SpotCheck, make_encoder
from meap_megatron.corpus.sft.pieces import Known, Piece, Run, inner_definition
from meap_megatron.corpus.sft.roles import ANSWER, END, PROMPT, UNMASKED

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
        inner = inner_definition(definition)
        self._definitions = {True: definition, False: inner}
        self._encoders: dict[bool, Encoder] = {True: make_encoder(name, definition)}
        self._encoders[False] = self._encoders[True] if inner == definition else make_encoder(name, inner)
        self._checks = {
            first: SpotCheck(encoder, self._definitions[first]) for first, encoder in self._encoders.items()
        }
        self._aligned: dict[bool, Any] = {}

    def encode(self, rows: list[list[Piece]]) -> tuple[list[Row], int]:
        """Return uint32[n] ids and uint8[n] roles of each row, and how many bytes of text were encoded.

        Raises:
            RunError: the fast encoder and the reference disagree.
        """
        found: dict[tuple[bool, str], NDArray[np.uint32]] = {}
        num_bytes = 0
        for first, encoder in self._encoders.items():
            wanted = {
                piece.text: None
                for row in rows
                for piece in row
                if isinstance(piece, Run) and piece.first == first and len(piece.roles) == 1
            }
            if wanted:
                texts = [text.encode("utf-8") for text in wanted]
                num_bytes += sum(map(len, texts))
                self._checks[first].check(texts)
                found |= zip([(first, text) for text in wanted], encoder.encode(texts), strict=True)
        return [self._join(row, found) for row in rows], num_bytes

    def _join(self, row: list[Piece], found: dict[tuple[bool, str], NDArray[np.uint32]]) -> Row:
        ids: list[NDArray[np.uint32]] = []
        roles: list[NDArray[np.uint8]] = []
        for piece in row:
            if isinstance(piece, Known):
                ids.append(np.array([piece.token_id], dtype=np.uint32))
                roles.append(np.array([piece.role], dtype=np.uint8))
            elif len(piece.roles) == 1:
                ids.append(found[piece.first, piece.text])
                roles.append(np.full(len(ids[-1]), piece.roles[0][1], dtype=np.uint8))
            else:
                some_ids, some_roles = self._align(piece)
                ids.append(some_ids)
                roles.append(some_roles)
        return np.concatenate(ids, dtype=np.uint32), np.concatenate(roles, dtype=np.uint8)

    def _align(self, run: Run) -> Row:
        """Encode a run of several roles by the reference, which tells the characters of each token."""
        from tokenizers import Tokenizer

        if run.first not in self._aligned:
            self._aligned[run.first] = Tokenizer.from_str(self._definitions[run.first])
            self._aligned[run.first].encode_special_tokens = True
        encoding = self._aligned[run.first].encode(run.text, add_special_tokens=False)
        characters = np.empty(len(run.text), dtype=np.uint8)
        start = 0
        for stop, role in run.roles:
            characters[start:stop] = role
            start = stop
        roles = np.empty(len(encoding.ids), dtype=np.uint8)
        for number, (start, stop) in enumerate(encoding.offsets):
            held = set(characters[min(start, len(characters) - 1) : max(stop, start + 1)].tolist())
            roles[number] = next(role for role in PRECEDENCE if role in held)
        return np.array(encoding.ids, dtype=np.uint32), roles
