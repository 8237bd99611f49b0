"""The sidecars of all data of a run: checked, of one tokenizer, and of one kind."""

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar, check_prefix
from meap_megatron.launch.blend import DATA_KEYS, entries_in_file, entries_of, is_number
from meap_megatron.launch.named_settings import Settings


def read_sidecars(prefixes: list[str]) -> list[Sidecar]:
    """Check every prefix cheaply and return the sidecars.

    Raises:
        UserError: a file is missing or of the wrong size, or two prefixes were made with different tokenizers.
    """
    sidecars = [check_prefix(prefix) for prefix in prefixes]
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        if sidecar.tokenizer.fingerprint != sidecars[0].tokenizer.fingerprint:
            raise UserError(
                f"{prefix} was tokenised with another tokenizer ({sidecar.tokenizer.fingerprint[:12]}) than {prefixes[0]} "
                f"({sidecars[0].tokenizer.fingerprint[:12]}); a blend needs one tokenizer",
                fix="run `meap preprocess` again",
            )
    return sidecars


def is_sft(sidecars: list[Sidecar]) -> bool:
    """Tell whether the data is for fine-tuning.

    Raises:
        UserError: some of it is and some is not.
    """
    kinds = {sidecar.kind for sidecar in sidecars}
    if len(kinds) > 1:
        raise UserError(f"data_path mixes {' and '.join(sorted(kinds))} data; a run reads one kind")
    return kinds == {"sft"}


def named_prefixes(settings: Settings) -> list[str]:
    """Return the dataset prefixes of a command line and of the files it names, without blend weights.

    Raises:
        UserError: such a file cannot be read.
    """
    entries = [entry for key in DATA_KEYS if settings.has(key) for entry in entries_of(settings.get(key))]
    for key, per_split in (("data_args_path", False), ("per_split_data_args_path", True)):
        if settings.has(key):
            entries += entries_in_file(str(settings.get(key)), per_split=per_split)
    return [entry for entry in entries if not is_number(entry)]
