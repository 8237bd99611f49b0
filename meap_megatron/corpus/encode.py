"""Text to ids: gigatoken as the fast path, Hugging Face `tokenizers` as the reference, and the check between them.

Both are built from the same tokenizer.json and both treat special tokens in the text as plain text. The fast path is
taken only after it gave the same ids as the reference on a sample of the real input; while it runs, one short document
of every eighth batch (8 MiB of text) is encoded by both.
"""

import ctypes
import functools
import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.gigatoken_plan import gigatoken_plan
from meap_megatron.corpus.windows import encode_in_windows, windowed
from meap_megatron.errors import RunError, UserError
from meap_megatron.tokenizer.load import CorpusTokenizer
from meap_megatron.tokenizer.parsed import forget as forget_parsed
from meap_megatron.tokenizer.parsed import parsed

MEMORY_LIMIT = 2**26  # bytes that gigatoken's cache of words may take in one process
LONG_TEXT = 2**20  # bytes from which `tokenizers` gets a text in windows
WHOLE_LIMIT = 2**23  # bytes of a text that it gets at once
BYTES_PER_BYTE = 110  # of memory, for a text that it gets at once
PIECES = 2**16  # arrays of ids that are kept apart
ENCODERS = ("auto", "gigatoken", "tokenizers")
# Texts that break encoders: special tokens as text, runs of spaces, controls, combining and astral characters.
TRICKY = (
    " leading",
    "trailing  \n\n\t ",
    "a</s>b<s>c[MASK]d<unk><|endoftext|>",
    "    four\n\n\n\nlines\r\nwindows",
    "e\u0301 \u00e9 \u6f22\u5b57 \u0627\u0644 \U0001f600\U0001f469\u200d\U0001f4bb \u2581 \ufeff",
    "\x00\x01\x7f\u0085\u00a0\u2028",
    "123456789 3.14e-10 don't I'LL x_y-z http://a.b/c?d=e&f#g",
)


class Encoder(Protocol):
    """Encode documents to ids, without BOS, EOS or template."""

    name: str

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        """Return one array of ids per UTF-8 text."""
        ...


class TokenizersEncoder:
    """The reference: Hugging Face `tokenizers`."""

    name = "tokenizers"

    def __init__(self, definition: str) -> None:
        self._definition = definition
        self._tokenizer = parsed(definition)

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        """Return one array of ids per UTF-8 text."""
        if any(len(text) > LONG_TEXT for text in texts):
            return [self._encode_long(text) if len(text) > LONG_TEXT else self.encode([text])[0] for text in texts]
        decoded = [text.decode("utf-8") for text in texts]
        encodings = self._tokenizer.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def _encode_long(self, text: bytes) -> NDArray[np.uint32]:
        decoded = text.decode("utf-8")
        ids = None if self._windowed is None else encode_in_windows(self._windowed, decoded)
        if ids is None:
            if len(text) > WHOLE_LIMIT:
                needed = len(text) * BYTES_PER_BYTE / 1e9
                raise UserError(
                    f"a text of {len(text) / 1e6:,.0f} MB, which begins {decoded[:60]!r}, has no place where it can be cut "
                    f"without changing an id, and whole it needs about {needed:,.1f} GB of memory",
                    fix="split it, or leave it out",
                )
            ids = np.array(self._tokenizer.encode(decoded, add_special_tokens=False).ids, dtype=np.uint32)
        return ids

    @functools.cached_property
    def _windowed(self) -> Any:
        return windowed(self._definition)


class GigatokenEncoder:
    """The fast path: gigatoken's BPE.

    gigatoken remembers every word it has met and never forgets one. That is its speed, but over a large corpus it
    would be the whole memory; so the tokenizer is rebuilt when the process has grown by `MEMORY_LIMIT`.
    """

    name = "gigatoken"

    def __init__(self, definition: str) -> None:
        self._plan = gigatoken_plan(definition)
        self._whole = definition
        self._build()

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        """Return one array of ids per UTF-8 text."""
        if resident_bytes() - self._resident > MEMORY_LIMIT:
            self._build()
        return [self._encode(text) for text in texts]

    def _encode(self, text: bytes) -> NDArray[np.uint32]:
        plan = self._plan
        ids: NDArray[np.uint32]
        if plan.cuts is None:
            ids = self._backend.encode(text)
        else:
            ids = self._encode_pieces(text.decode("utf-8"), plan.cuts)
        if plan.first_filler is not None and ids.max(initial=0) >= plan.first_filler:
            ids = TokenizersEncoder(self._whole).encode([text])[0]
        return ids

    def _encode_pieces(self, text: str, cuts: re.Pattern[str]) -> NDArray[np.uint32]:
        done = [np.zeros(0, np.uint32)]
        some: list[NDArray[np.uint32]] = []
        start = 0
        for match in cuts.finditer(text):
            if start < match.start():
                some.append(self._backend.encode(text[start : match.start()].encode()))
            some.append(self._backend.encode(match[0].encode()))
            start = match.end()
            if len(some) > PIECES:  # an array each is much larger than the ids in it
                done.append(np.concatenate(some))
                some = []
        if start < len(text):
            some.append(self._backend.encode(text[start:].encode()))
        return np.concatenate(done + some)

    def _build(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._backend: Any = None  # frees the old one first
        return_free_memory()
        self._backend = load_hf_json(self._plan.definition)
        self._resident = resident_bytes()


def return_free_memory() -> None:
    """Have the C library give freed memory back: else what an encoder held would count as the start of the next one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return the memory of this process in bytes, or 0 where the system does not tell (not Linux)."""
    try:
        with open("/proc/self/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@functools.lru_cache(maxsize=2)
def make_encoder(name: str, definition: str) -> Encoder:
    """Return the encoder of this name ("gigatoken" or "tokenizers") for the text of a tokenizer.json.

    A process that chooses an encoder and then encodes with it builds it once.
    """
    return GigatokenEncoder(definition) if name == "gigatoken" else TokenizersEncoder(definition)


def forget() -> None:
    """Let go of all encoders and tokenizers: this process encodes nothing itself, and they are large."""
    make_encoder.cache_clear()
    forget_parsed()
    return_free_memory()


def first_difference(fast: Encoder, reference: Encoder, texts: Sequence[bytes]) -> str | None:
    """Return a description of the first text that two encoders encode differently, or None."""
    for text, left, right in zip(texts, fast.encode(texts), reference.encode(texts), strict=True):
        if not np.array_equal(left, right):
            common = min(len(left), len(right))
            unequal = np.flatnonzero(left[:common] != right[:common])
            at = int(unequal[0]) if len(unequal) else common
            return (
                f"{text[:40]!r}...: token {at} is {left[at : at + 4].tolist()} by {fast.name}, "
                f"{right[at : at + 4].tolist()} by {reference.name}"
            )
    return None


def choose_encoder(requested: str, tokenizer: CorpusTokenizer, sample: Sequence[bytes]) -> tuple[str, str | None]:
    """Choose the encoder after comparing it with the reference on a sample of the real input.

    Args:
        requested: "auto", "gigatoken" or "tokenizers".
        tokenizer: the extended tokenizer.
        sample: UTF-8 texts of the input.

    Returns:
        The name of the encoder, and why the fast path was not taken (None if it was, or was not asked for).

    Raises:
        UserError: "gigatoken" was asked for and does not agree, or the converted SentencePiece model does not give
            the ids that SentencePiece gives.
    """
    tricky = [text.encode() for text in TRICKY]
    texts = [*tricky, *sample]
    reference = TokenizersEncoder(tokenizer.definition)
    model = None if tokenizer.sentencepiece_model is None else _SentencePiece(tokenizer.sentencepiece_model)
    reason = None if requested == "tokenizers" else _why_not_gigatoken(tokenizer, model or reference, texts)
    if model is not None:
        # Where gigatoken reads the same ids as SentencePiece out of the tokenizer.json, a quarter of the sample is enough to
        # see that `tokenizers`, the slowest of the three, does too.
        taken = requested != "tokenizers" and reason is None
        if difference := first_difference(model, reference, [*tricky, *sample[:: 4 if taken else 1]]):
            raise UserError(
                f"the SentencePiece model has no equal tokenizer.json: {difference}",
                fix="convert it with its own project's tool and pass the tokenizer.json",
            )
    if requested == "gigatoken" and reason is not None:
        raise UserError(
            f"--encoder gigatoken cannot be used with this tokenizer: {reason}", fix="use --encoder tokenizers"
        )
    return "tokenizers" if requested == "tokenizers" or reason is not None else "gigatoken", reason


def _why_not_gigatoken(tokenizer: CorpusTokenizer, truth: Encoder, texts: Sequence[bytes]) -> str | None:
    """Return how gigatoken's ids differ from the true ones, or None if they do not."""
    try:
        return first_difference(make_encoder("gigatoken", tokenizer.definition), truth, texts)
    except BaseException as error:
        # A panic of the Rust library is not derived from Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]


class SpotCheck:
    """Encode one short document of every eighth batch, and of the first, by the reference too."""

    def __init__(self, fast: Encoder, definition: str) -> None:
        self.fast = fast
        self.reference = None if fast.name == "tokenizers" else TokenizersEncoder(definition)
        self.batches = 0

    def check(self, texts: Sequence[bytes]) -> None:
        """Compare one text of at most 4 KiB; which one changes from batch to batch.

        Raises:
            RunError: the encoders differ.
        """
        self.batches += 1
        if self.reference is None or self.batches % 8 != 1:
            return
        for shift in range(min(len(texts), 16)):
            text = texts[(self.batches + shift) % len(texts)]
            if len(text) <= 4096:
                if difference := first_difference(self.fast, self.reference, [text]):
                    raise RunError(difference, fix="start again with --encoder tokenizers --overwrite")
                return


class _SentencePiece:
    """SentencePiece itself, for the check of its conversion."""

    name = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.uint32]]:
        return [np.array(self._processor.encode(text.decode("utf-8")), dtype=np.uint32) for text in texts]


def libraries(encoder: str) -> dict[str, str]:
    """Return the versions of the libraries that decide the ids."""
    names = ["tokenizers"] if encoder == "tokenizers" else [encoder, "tokenizers"]
    return {name: version(name) for name in ("meap-megatron", *names)}
