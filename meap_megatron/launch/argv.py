"""Values of flags on a command line that no parser has read yet."""

from meap_megatron.errors import UserError
from meap_megatron.launch.blend import DATA_KEYS, is_number, words_in_file

DATA_FLAGS = tuple(f"--{key.replace('_', '-')}" for key in DATA_KEYS)


def flag_values(argv: list[str], flag: str) -> list[str]:
    """Return the values that a command line gives to `flag` (`--flag a b` or `--flag=a`), [] if it is absent.

    The last of a repeated flag counts, as for Megatron's parser.
    """
    values: list[str] = []
    taking = False
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            taking = name == flag
            if taking:
                values = [value] if equals else []
        elif taking:
            values.append(word)
    return values


def named_prefixes(argv: list[str]) -> list[str]:
    """Return the dataset prefixes on a command line and in the files it names, without blend weights.

    Raises:
        UserError: such a file cannot be read.
    """
    words = [word for flag in DATA_FLAGS for word in flag_values(argv, flag)]
    for path in flag_values(argv, "--data-args-path"):
        words += words_in_file(path, per_split=False)
    for path in flag_values(argv, "--per-split-data-args-path"):
        words += words_in_file(path, per_split=True)
    return [word for word in words if not is_number(word)]


def whole_number(argv: list[str], flag: str, *, default: int) -> int:
    """Return the value that a command line gives to a flag.

    Raises:
        UserError: it is no whole number of at least 1.
    """
    words = flag_values(argv, flag)
    if not words:
        return default
    if not words[-1].isdecimal() or int(words[-1]) < 1:
        raise UserError(f"{flag} {words[-1]} must be a whole number of at least 1")
    return int(words[-1])
