"""The ordinary ids of a dataset's tokenizer: those that a random token may have."""

from pathlib import Path

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.masking.corruption import OrdinaryIds


def ordinary_ids(prefix: str, sidecar: Sidecar) -> OrdinaryIds:
    """Return the ids of the tokenizer saved beside the data, without its special tokens and [MASK].

    Raises:
        UserError: the tokenizer is not there.
    """
    info = sidecar.tokenizer
    path = None if info.folder is None else Path(prefix).parent / info.folder / "tokenizer.json"
    if path is None or not path.is_file():
        raise UserError(
            f"meap_corruption draws random tokens, and the tokenizer of {prefix} is not beside it ({path})",
            fix="copy the folder there, or use meap_corruption=mask",
        )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    unused = set(range(info.vocab_size)) - set(tokenizer.get_vocab(with_added_tokens=True).values())
    special = {id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = {id_ for id_ in (info.bos_id, info.eos_id, info.pad_id, info.mask_id) if id_ is not None}
    return OrdinaryIds.without(info.vocab_size, unused | special | named)
