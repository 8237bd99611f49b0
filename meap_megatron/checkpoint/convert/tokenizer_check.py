"""Whether data and an imported model have one tokenizer, and whether a saved tokenizer is the one it was made from."""

from collections.abc import Iterator
from pathlib import Path

from meap_megatron.checkpoint.convert.record import HF_FOLDER, TOKENIZER_FOLDER, ImportRecord, read_record
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar, TokenizerInfo, sidecar_path
from meap_megatron.tokenizer.difference import difference, ids_of
from meap_megatron.tokenizer.files import ROLES, load_with_transformers
from meap_megatron.tokenizer.load import MASK_TOKEN, load_tokenizer

SHOWN = 3  # tokens in a message
UNKNOWN = "their fingerprints differ"


def check_imports(folders: list[str], sidecars: list[Sidecar], prefixes: list[str]) -> None:
    """Refuse data that an imported model cannot be trained on, before anything heavy is loaded.

    Args:
        folders: where the weights of the run may come from; those that no import wrote are passed over.
    """
    for folder in map(Path, folders):
        if (record := read_record(folder)) is None:
            continue
        for prefix, sidecar in zip(prefixes, sidecars, strict=True):
            size, rows = sidecar.tokenizer.vocab_size, record.spec.vocab_rows
            if size == rows + 1 and sidecar.tokenizer.mask_id == rows:
                raise UserError(
                    f"{prefix} uses [MASK] (id {rows}), for which the model in {folder} has no row: it was imported without "
                    "one",
                    fix="import it again with --add-mask-token",
                )
            check_tokenizer(folder, record, sidecar, prefix)


def check_tokenizer(folder: Path, record: ImportRecord, sidecar: Sidecar, prefix: str) -> None:
    """Refuse data of another tokenizer than an imported model has. One that only adds tokens to it is accepted."""
    if record.tokenizer in (None, sidecar.tokenizer.fingerprint):
        return
    own, other = of_import(folder), of_data(sidecar, prefix)
    found: str | None = UNKNOWN
    if own is not None and other is not None:
        found = difference(ids_of(own), ids_of(other), here="in the model", there="in the data")
    if found is None:
        return
    raise UserError(
        f"{prefix} was made with another tokenizer than the model in {folder} has ({found}); its rows would be "
        f"trained as other tokens",
        fix=f"run `meap preprocess` again with --tokenizer {own or folder}",
    )


def of_import(folder: Path) -> Path | None:
    """Return the folder of the tokenizer that an import saved, None if there is none."""
    return next((folder / name for name in (TOKENIZER_FOLDER, HF_FOLDER) if (folder / name).is_dir()), None)


def of_data(sidecar: Sidecar, prefix: str) -> Path | None:
    """Return the folder of the tokenizer that was saved beside data, None if it is not here."""
    folder = sidecar_path(prefix).parent / (sidecar.tokenizer.folder or "")
    return folder if sidecar.tokenizer.folder is not None and folder.is_dir() else None


def check_named(
    given: Path, *, data: tuple[str, Sidecar] | None, source: tuple[Path, ImportRecord] | None, ids: int | None
) -> TokenizerInfo:
    """Return the identity of a tokenizer that is named for a model, checked against that of its data, else of its import.

    One that only adds tokens is accepted.

    Args:
        data: (prefix, sidecar) of the training data, if they are here.
        source: (folder, record) of the import that the weights started from.
        ids: the number that the run was trained with, if it is known.

    Raises:
        UserError: it is another one, with the first tokens that have another id.
    """
    mask = MASK_TOKEN if data is None else data[1].tokenizer.mask_token
    info = load_tokenizer(given, mask_token=mask).info
    whose, own, found = "the run was trained with", None, None
    if data is not None:
        whose, own = f"made {data[0]}", of_data(data[1], data[0])
        fingerprint: str | None = data[1].tokenizer.fingerprint
    elif source is not None:
        whose, own = f"{source[0]} was imported with", of_import(source[0])
        fingerprint = source[1].tokenizer
    else:
        fingerprint = None
    if fingerprint is not None and fingerprint != info.fingerprint:
        known = {} if own is None else ids_of(own, mask_token=mask)
        if data is None and source is not None and source[1].mask_id is None:
            known.pop(mask, None)  # an id that the model does not have
        found = (
            UNKNOWN if own is None else difference(known, ids_of(given, mask_token=mask), here="there", there="in it")
        )
    elif fingerprint is None and ids is not None and info.vocab_size < ids:
        found = f"it has {info.vocab_size:,} ids, and that one {ids:,}"
    if found is not None:
        raise UserError(
            f"--tokenizer {given} is not the tokenizer that {whose} ({found}): rows of the model would get other tokens",
            fix=f"leave --tokenizer out, or give {'the right one' if own is None else own}",
        )
    return info


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
