"""The tokenizer in the metadata of a GGUF file, as tokenizer.json, configuration and chat template.

llama.cpp stores the vocabulary, the merges or scores, and a name for the way in which text is split before merging. Only
splits that are known here are taken: a wrong one gives other ids without any error.
"""

from pathlib import Path
from typing import Any, Protocol

from meap_megatron.checkpoint.convert.hf_files import write_json
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.sentencepiece import convert_sentencepiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Kinds of tokens, numbered as in SentencePiece."""
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = {
    "llama-bpe": rf"{WORDS}|\p{{N}}{{1,3}}{TAIL}",
    "qwen2": rf"{WORDS}|\p{{N}}{TAIL}",
    "smollm": None,
    "gpt-2": None,
}
"""Name of a split -> its pattern; None: that of GPT-2."""
ALIKE = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
ROLES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


class Metadata(Protocol):
    """What is needed of a GGUF file."""

    path: Path

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the metadata."""


def write_tokenizer(metadata: Metadata, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and, where there is one, chat_template.jinja.

    Raises:
        UserError: there is no tokenizer, or one of a kind that is not known here.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    kind = metadata.get("tokenizer.ggml.model")
    otherwise = "give the model's own with --tokenizer FOLDER"
    if not tokens:
        raise UserError(f"{metadata.path} holds no tokenizer", fix=otherwise)
    if kind == "gpt2":
        split = metadata.get("tokenizer.ggml.pre", "default")
        if ALIKE.get(split, split) not in SPLITS:
            raise UserError(
                f"{metadata.path}: its tokenizer splits text by the rule {split!r}; of those, {', '.join(SPLITS)} are "
                f"known here",
                fix=otherwise,
            )
        definition = byte_level(metadata, tokens, ALIKE.get(split, split))
    elif kind == "llama":
        definition = sentencepiece(metadata, tokens)
    else:
        raise UserError(
            f"{metadata.path}: its tokenizer is of kind {kind!r}, and gpt2 and llama are known", fix=otherwise
        )
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for role, name in ROLES.items():
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and 0 <= number < len(tokens):
            config[role] = tokens[number]
    (folder / "tokenizer.json").write_text(definition, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def byte_level(metadata: Metadata, tokens: list[str], split: str) -> str:
    """Return the tokenizer.json of a byte-level BPE."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    # Unused tokens only fill the table of the embedding.
    vocabulary = {token: number for number, token in enumerate(tokens) if kinds[number] != UNUSED}
    merges = [tuple(pair.split(" ")) for pair in metadata.get("tokenizer.ggml.merges") or ()]
    llama3 = split == "llama-bpe"
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=llama3))
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    before: list[Any]
    if (pattern := SPLITS[split]) is not None:
        before = [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    else:
        before = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, own])
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [
            AddedToken(token, normalized=False, special=special)
            for token, found in zip(tokens, kinds, strict=True)
            if found == kind
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", llama3):
        opening = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A", pair=f"{opening} $A $B", special_tokens=[(opening, bos)]
        )
    return tokenizer.to_str()


def sentencepiece(metadata: Metadata, tokens: list[str]) -> str:
    """Return the tokenizer.json of a SentencePiece BPE, through the model that it was made from."""
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    model = protobuf.ModelProto()  # type: ignore[attr-defined]
    scores = metadata.get("tokenizer.ggml.scores")
    kinds = metadata.get("tokenizer.ggml.token_type")
    if scores is None or kinds is None:
        raise UserError(
            f"{metadata.path}: its tokenizer has no scores or no types",
            fix="give the model's own with --tokenizer FOLDER",
        )
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer, rules = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = 2, True
    for role, name, default in (("bos", "bos", 1), ("eos", "eos", 2), ("unk", "unknown", 0), ("pad", "padding", -1)):
        setattr(trainer, f"{role}_id", metadata.get(f"tokenizer.ggml.{name}_token_id", default))
    trainer.unk_piece = tokens[trainer.unk_id]
    rules.add_dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    rules.remove_extra_whitespaces, rules.escape_whitespaces = False, True
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", True)
    return convert_sentencepiece(model.SerializeToString(), source=metadata.path, add_bos=add_bos)[0]
