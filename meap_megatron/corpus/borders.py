"""Which ids open and end a document: what the tokenizer does by itself, unless the user says otherwise."""

from meap_megatron.corpus.terminal import say
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import CorpusTokenizer


def opening_id(tokenizer: CorpusTokenizer, *, add_bos: bool | None, source: str) -> int | None:
    """Return the BOS id that documents or rows open with, or None; say where that differs from the official code.

    Args:
        tokenizer: the tokenizer.
        add_bos: what the user asked for; None follows the tokenizer.
        source: what the user named as tokenizer, for messages.

    Raises:
        UserError: BOS is asked for and there is none.
    """
    bos_id = tokenizer.info.bos_id
    if add_bos and bos_id is None:
        raise UserError(
            f"--add-bos: tokenizer {source} has no BOS token", fix="name one with --bos-token, or leave it out"
        )
    wanted = tokenizer.adds_bos if add_bos is None else add_bos
    if add_bos is None and not wanted and bos_id is not None:
        say(
            f"note: the tokenizer names the BOS token {tokenizer.bos_token!r} but puts none before a text, so none is "
            f"added; --add-bos adds it, as the official code of MEAP does for text"
        )
    return bos_id if wanted else None


def border_ids(
    tokenizer: CorpusTokenizer, *, add_bos: bool | None, add_eos: bool, source: str
) -> tuple[int | None, int | None]:
    """Return the ids that open and end a document of text.

    One token that is both BOS and EOS appears once between two documents, unless BOS is asked for.

    Raises:
        UserError: BOS or EOS is asked for and there is none.
    """
    eos_id = tokenizer.info.eos_id
    if add_eos and eos_id is None:
        raise UserError(
            f"tokenizer {source} has no EOS token", fix="name one with --eos-token, or leave it out with --no-eos"
        )
    bos_id = opening_id(tokenizer, add_bos=add_bos, source=source)
    if bos_id is not None and bos_id == eos_id and add_eos and add_bos is None:
        say(
            f"note: {tokenizer.bos_token!r} is both BOS and EOS, so documents end with it and do not open with it; "
            f"--add-bos writes it twice at each border, as the official code of MEAP does"
        )
        bos_id = None
    return bos_id, eos_id if add_eos else None
