"""Whether data and an imported model have one tokenizer, and whether a saved tokenizer is the one it was made from."""

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from meap_megatron.checkpoint.convert.record import HF_FOLDER, TOKENIZER_FOLDER, ImportRecord, read_record
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar, sidecar_path
from meap_megatron.tokenizer.files import ROLES, load_with_transformers
from meap_megatron.tokenizer.load import load_tokenizer

SHOWN = 3  # tokens in a message


def check_imports(folders: list[str], sidecars: list[Sidecar], prefixes: list[str]) -> None:
    """Refuse data that an imported model cannot be trained on, before anything heavy is loaded.

    Args:
        folders: where the weights of the run may come from; those that no import wrote are passed over.
        sidecars: of the data.
        prefixes: of the data.

    Raises:
        UserError: [MASK] has no row in the model, or its tokenizer is not that of the data.
    """
    for folder in map(Path, folders):
        if (record := read_record(folder)) is None:
            continue
        for prefix, sidecar in zip(prefixes, sidecars, strict=True):
            size, rows = sidecar.tokenizer.vocab_size, record.spec.vocab_rows
            if size == rows + 1 and sidecar.tokenizer.mask_id == rows:
                raise UserError(
                    f"{prefix} uses [MASK] (id {rows}), for which the model in {folder} has no row: it was imported without "
                    "one; import it again with --add-mask-token"
                )
            check_tokenizer(folder, record, sidecar, prefix)


def check_tokenizer(folder: Path, record: ImportRecord, sidecar: Sidecar, prefix: str) -> None:
    """Refuse data of another tokenizer than an imported model has. One that only adds tokens to it is accepted.

    Raises:
        UserError: with the first tokens that have another id.
    """
    if record.tokenizer in (None, sidecar.tokenizer.fingerprint):
        return
    own = next((folder / name for name in (TOKENIZER_FOLDER, HF_FOLDER) if (folder / name).is_dir()), None)
    other = sidecar_path(prefix).parent / (sidecar.tokenizer.folder or "")
    differing = "their fingerprints differ"
    if own is not None and sidecar.tokenizer.folder is not None and other.is_dir():
        ids, found = vocabulary(own), vocabulary(other)
        moved = [token for token, number in sorted(ids.items(), key=itemgetter(1)) if found.get(token) != number]
        if not moved:
            return
        listed = ", ".join(f"{t!r} is {ids[t]} in the model, {found.get(t)} in the data" for t in moved[:SHOWN])
        differing = f"{len(moved):,} of {len(ids):,} tokens have another id: {listed}"
    raise UserError(
        f"{prefix} was made with another tokenizer than the model in {folder} has ({differing}); its rows would be "
        f"trained as other tokens: run `meap preprocess` again with --tokenizer {own or folder}"
    )


def vocabulary(folder: Path) -> dict[str, int]:
    """Return token -> id of a tokenizer folder, [MASK] included."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(load_tokenizer(folder).definition).get_vocab(with_added_tokens=True)


def differences(original: Path, saved: Path) -> Iterator[str]:
    """Give how a saved tokenizer differs from its original, both as `transformers` loads them, [MASK] apart.

    Args:
        original: folder with the tokenizer as it came.
        saved: folder that `save_tokenizer` wrote.
    """
    try:
        before = load_with_transformers(original)
    except Exception:
        return  # a class that transformers does not have: nobody else can say what its ids are
    after = load_with_transformers(saved)
    ids = after.get_vocab()
    moved = {token: (index, ids.get(token)) for token, index in before.get_vocab().items() if ids.get(token) != index}
    for token, (index, other) in sorted(moved.items(), key=lambda item: item[1][0])[:SHOWN]:
        yield f"the token {token!r} has id {other}, it was {index}"
    if len(moved) > SHOWN:
        yield f"{len(moved) - SHOWN:,} more tokens have other ids"
    for role in ROLES:
        if (found := getattr(after, role)) != (was := getattr(before, role)):
            yield f"{role} is {found!r}, it was {was!r}"
    if before.chat_template != after.chat_template:
        yield "the chat template is another one"
    if before("a").input_ids != after("a").input_ids:
        yield f"'a' has the ids {after('a').input_ids}, it had {before('a').input_ids}"
