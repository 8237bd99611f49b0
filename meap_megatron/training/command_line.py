"""What follows from the data for the command line: vocabulary, segments, loss, steps. Read before Megatron is imported."""

import argparse
import math

from meap_megatron.corpus.sidecar import Sidecar
from meap_megatron.errors import UserError
from meap_megatron.training.arguments import add_meap_arguments

DATA_FLAGS = ("--data-path", "--train-data-path", "--valid-data-path", "--test-data-path")


def flag_values(argv: list[str], flag: str) -> list[str]:
    """Return the values that a command line gives to `flag` (`--flag a b` or `--flag=a`), [] if it is absent."""
    values: list[str] = []
    taking = False
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            taking = name == flag
            if taking and equals:
                values.append(value)
        elif taking:
            values.append(word)
    return values


def named_prefixes(argv: list[str]) -> list[str]:
    """Return the dataset prefixes on a command line, without blend weights."""
    words = [word for flag in DATA_FLAGS for word in flag_values(argv, flag)]
    return [word for word in words if not is_number(word)]


def is_number(word: str) -> bool:
    """Tell whether a word of a blend is a weight."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def data_flags(argv: list[str]) -> list[str]:
    """Return the flags that follow from the data: vocabulary, and for fine-tuning segments, loss and steps."""
    prefixes = named_prefixes(argv)
    if not prefixes:
        named = ("--mock-data", "--data-args-path", "--per-split-data-args-path")
        if not any(word.split("=")[0] in named for word in argv):
            raise UserError("no training data: give data_path, the prefix that `meap preprocess` wrote")
        return []
    from meap_megatron.checkpoint.convert.tokenizer_check import check_imports
    from meap_megatron.training.data import is_sft, read_sidecars

    sidecars = read_sidecars(prefixes)
    check_imports([*flag_values(argv, "--pretrained-checkpoint"), *flag_values(argv, "--load")], sidecars, prefixes)
    check_split(argv, sidecars, prefixes)
    flags = tokenizer_flags(argv, sidecars)
    if is_sft(sidecars):
        # Segments of a packed row must not see each other: Megatron's name for that is inter-document masking.
        flags.append("--dataloader-inter-document-masking")
        if flag_values(argv, "--meap-sft-loss") != ["microbatch_mean"]:
            flags.append("--calculate-per-token-loss")
    if flag_values(argv, "--meap-epochs"):
        flags.append(f"--train-iters={steps_of_epochs(argv, sidecars, prefixes)}")
    return flags


def check_split(argv: list[str], sidecars: list[Sidecar], prefixes: list[str]) -> None:
    """Refuse a split so small that it holds no document.

    Raises:
        UserError: naming the split and the data.
    """
    words = flag_values(argv, "--split")
    if not words or flag_values(argv, "--data-path") == []:
        return
    try:
        shares = [float(share) for share in words[-1].split(",")]
    except ValueError:
        raise UserError(f"split={words[-1]} must be three numbers, for example 98,2,0") from None
    names = ("train", "valid", "test")
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        for name, share in zip(names, shares, strict=False):
            if share > 0 and round(sidecar.num_documents * share / sum(shares)) == 0:
                raise UserError(
                    f"the {name} split of {prefix} is empty: {sidecar.num_documents:,} documents, split {words[-1]}; give "
                    "that split a larger share (split=80,20,0), or none (split=100,0,0 with eval_iters=0)"
                )


def steps_of_epochs(argv: list[str], sidecars: list[Sidecar], prefixes: list[str]) -> int:
    """Return the steps that `--meap-epochs` asks for.

    Raises:
        UserError: epochs of pre-training data or of a blend; steps and epochs both given; a flag it needs is missing.
    """
    from meap_megatron.training import sft
    from meap_megatron.training.data import is_sft

    if not is_sft(sidecars) or len(prefixes) != 1:
        raise UserError("meap_epochs counts passes over one fine-tuning dataset; give train_iters instead")
    if flag_values(argv, "--train-iters"):
        raise UserError("train_iters and meap_epochs are both given; keep one (train_iters=null drops a recipe's)")
    parser = add_meap_arguments(argparse.ArgumentParser(allow_abbrev=False))
    parser.add_argument("--seq-length", type=int)
    parser.add_argument("--global-batch-size", type=int)
    parser.add_argument("--split", default="969,30,1")  # Megatron's default
    parser.add_argument("--seed", type=int, default=1234)
    args, _ = parser.parse_known_args(argv)
    for name in ("seq_length", "global_batch_size"):
        if getattr(args, name) is None:
            raise UserError(f"meap_epochs needs {name}")
    if args.meap_epochs <= 0:
        raise UserError(f"meap_epochs={args.meap_epochs} must be above 0")
    return sft.epoch_steps(args, sidecars[0], prefixes[0])


def tokenizer_flags(argv: list[str], sidecars: list[Sidecar]) -> list[str]:
    """Return the flags that give Megatron the vocabulary of the data, unless the command line names a tokenizer.

    Training never tokenises, so Megatron's placeholder tokenizer with the size from the sidecar is all it needs.
    """
    if flag_values(argv, "--tokenizer-type") or flag_values(argv, "--vocab-size"):
        return []
    size = max(sidecar.tokenizer.vocab_size for sidecar in sidecars)
    flags = ["--tokenizer-type=NullTokenizer", f"--vocab-size={size}"]
    if not flag_values(argv, "--padded-vocab-size"):
        multiple = whole_number(argv, "--make-vocab-size-divisible-by", default=128)
        ranks = whole_number(argv, "--tensor-model-parallel-size", default=1)
        flags.append(f"--padded-vocab-size={padded_rows(size, multiple=multiple, tensor_parallel=ranks)}")
    return flags


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


def padded_rows(size: int, *, multiple: int, tensor_parallel: int) -> int:
    """Return the rows of the embedding: the least multiple of both numbers that holds `size` ids.

    Megatron pads to a multiple of their product, so that one recipe would give another model on another layout.
    """
    step = math.lcm(multiple, tensor_parallel)
    return -(-size // step) * step
