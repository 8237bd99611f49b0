"""Convert a SentencePiece model into a tokenizer.json that gives the same ids; the caller checks that on real text.

A SentencePiece BPE model stores pieces with scores and no merges: two neighbouring pieces are merged when their union
is a piece, the union with the best score first. Hence the merges of the tokenizer.json are all splits of all pieces
into two pieces, in the order of the score of the union. SentencePiece merges over the whole text, so there is no
pre-tokenizer: splitting at spaces would make pieces that hold several spaces unreachable.

Source: the SentencePiece model format (`sentencepiece_model.proto`) and its normalisation rules.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError

SPACE = "\u2581"  # how SentencePiece writes a space
UNIGRAM, BPE = 1, 2  # trainer_spec.model_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # type of a piece


def convert_sentencepiece(model: bytes, *, source: Path, add_bos: bool = True) -> tuple[str, dict[str, str]]:
    """Convert a model.

    Args:
        source: where it came from, for messages.
        add_bos: the tokenizer opens a text with BOS, if the model has one.

    Returns:
        The text of the tokenizer.json, and the roles ("bos_token", "eos_token", "pad_token", "unk_token") with the
        text of their tokens, absent ones left out.

    Raises:
        UserError: not a SentencePiece model, or of a kind that has no equal tokenizer.json.
    """
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    proto = protobuf.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(model)
    except Exception as error:
        raise UserError(f"tokenizer {source} is not a SentencePiece model: {error}") from None
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if not proto.pieces:
        raise UserError(f"tokenizer {source} is not a SentencePiece model: it has no pieces")
    if trainer.model_type not in (UNIGRAM, BPE) or trainer.treat_whitespace_as_suffix or not rules.escape_whitespaces:
        raise UserError(
            f"tokenizer {source}: only SentencePiece models of type BPE or unigram with escaped spaces as prefix are "
            f"converted",
            fix="convert it to a tokenizer.json yourself and pass that",
        )
    pieces, scores, types = zip(*((piece.piece, piece.score, piece.type) for piece in proto.pieces), strict=True)
    added = [
        _added_token(index, pieces[index], special=kind == CONTROL)
        for index, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    if trainer.model_type == BPE:
        body = {
            "type": "BPE",
            "dropout": None,
            "unk_token": trainer.unk_piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": trainer.byte_fallback,
            "ignore_merges": False,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "merges": _merges(
                [piece for piece, kind in zip(pieces, types, strict=True) if kind == NORMAL], pieces, scores
            ),
        }
    else:
        # SentencePiece never chooses these pieces for a stretch of text. A lower least score also makes an unknown
        # character dearer, which changes nothing: no piece holds a character that is not a piece itself.
        never = (CONTROL, UNKNOWN, UNUSED)
        ranks = [-math.inf if kind in never else score for kind, score in zip(types, scores, strict=True)]
        floor = min(rank for rank in ranks if rank > -math.inf) - 100.0
        body = {
            "type": "Unigram",
            "unk_id": trainer.unk_id,
            "vocab": [[piece, max(rank, floor)] for piece, rank in zip(pieces, ranks, strict=True)],
            "byte_fallback": trainer.byte_fallback,
        }
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(rules)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": _decoder(trainer.byte_fallback, rules.add_dummy_prefix),
        "model": body,
    }
    ids = {"bos": trainer.bos_id, "eos": trainer.eos_id, "pad": trainer.pad_id, "unk": trainer.unk_id}
    roles = {f"{role}_token": pieces[index] for role, index in ids.items() if 0 <= index < len(pieces)}
    if add_bos and "bos_token" in roles:
        definition["post_processor"] = _template(roles["bos_token"], trainer.bos_id)
    return json.dumps(definition, ensure_ascii=False), roles


def _merges(normal: list[str], pieces: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """Return the merges of a BPE model, best score of the union first."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    ranked: list[tuple[float, int, int, str, str]] = []
    for union in normal:
        index = ids[union]
        for middle in range(1, len(union)):
            # Equal scores (pieces added by hand score 0 all together): the longer left part first, then the order of ids.
            if (left := union[:middle]) in ids and (right := union[middle:]) in ids:
                ranked.append((-scores[index], -middle, index, left, right))
    ranked.sort()
    return [[left, right] for _, _, _, left, right in ranked]


def _normalizers(rules: Any) -> list[dict[str, Any]]:
    import base64

    steps: list[dict[str, Any]] = []
    if rules.precompiled_charsmap:
        charsmap = base64.b64encode(rules.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if rules.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if rules.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return steps


def _decoder(byte_fallback: bool, dummy_prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    if byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _added_token(index: int, text: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, **flags, "special": special}


def _template(bos: str, bos_id: int) -> dict[str, Any]:
    """Return the template of later users of the tokenizer, as Llama-2's: BOS before, no EOS behind."""
    opening = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [opening, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [opening, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
