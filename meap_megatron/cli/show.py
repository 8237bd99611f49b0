"""`meap show`: the summary of a dataset, one training sample as training reads it, or one stored conversation."""

import argparse
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from meap_megatron.config import MaskConfig
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.declared import add_flags, declared, from_args
from meap_megatron.errors import UserError, counted
from meap_megatron.terminal import in_colour

if TYPE_CHECKING:
    from meap_megatron.corpus.display import ShownSample
    from meap_megatron.indexed.sidecar import Sidecar

SPLITS = ("train", "valid", "test")
SFT = "sft_"
"""Before the name of every option that only fine-tuning data has; its recipe key is `meap_` and that name."""
BEFORE_MASK = 8
"""Positions that are shown before the first masked token of a row."""
OF_BOTH = {"mask_ratio", "corruption", "mask_seed", "mask_validation"}
"""Masking options that fine-tuning data has too."""
HELP = """Print what a dataset holds, or one sample of it as columns: position, input, id, label, masked?, loss?

The sample is built by Megatron's own dataset builder, so it is the one that training reads when split, sequence
length, seed, masking and (beyond one epoch) the number of samples are those of the run.

Of fine-tuning data, --index alone shows a conversation as it is stored, before packing and masking: position, token,
id, role, trained? With --seq-length it shows a row as training reads it: whole conversations and masked copies.

  meap show corpus/c4
  meap show corpus/c4 --index 0 --seq-length 256
  meap show corpus/c4 --index 7 --mask-ratio 0.15 --mask-strategy span --span-length 5 --rows 0 | less -R
  meap show corpus/chats --index 0
  meap show corpus/chats --index 0 --seq-length 4096
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prefix", metavar="PREFIX", help="dataset, without .bin or .idx")
    parser.add_argument("--index", type=int, help="number of the sample in its split, from 0; without it a summary")
    samples = parser.add_argument_group("samples, as a run makes them")
    samples.add_argument("--seq-length", type=int, default=4096, help="tokens per sample (default: 4096)")
    samples.add_argument("--seed", type=int, default=1234, help="the run's seed: data order and masks (default: 1234)")
    split = "train, valid and test share, as the run has it (default: 100,0,0)"
    samples.add_argument("--split", default="100,0,0", help=split)
    samples.add_argument("--split-name", "--of", choices=SPLITS, default="train", help="which split (default: train)")
    samples.add_argument("--num-samples", type=int, help="samples that the run draws, if more than one epoch")
    text = parser.add_argument_group(
        "masking", "of fine-tuning data only ratio, corruption, seed and validation apply"
    )
    text.add_argument("--global-batch-size", type=int, help="samples per step, with strategy official51")
    add_flags(text, MaskConfig, prefix="")
    rows = parser.add_argument_group("rows of fine-tuning data", "recipe keys: meap_sft_...")
    add_flags(rows, SFTConfig, prefix=SFT)
    defaults = {one.dest: one.default for group in (samples, text, rows) for one in group._group_actions}
    text.add_argument("--strategy", dest="mask_strategy", help=argparse.SUPPRESS)  # its name before 0.2
    # None, so that what is given can be told from what is not.
    parser.set_defaults(**dict.fromkeys(defaults), sample_defaults=defaults)
    start = "first position to print (default: 0; of a row of fine-tuning data, just before its first masked token)"
    parser.add_argument("--start", type=int, help=start)
    parser.add_argument("--rows", type=int, default=64, help="positions to print, 0 for all (default: 64)")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")


def run(args: argparse.Namespace) -> int:
    """Print the summary, the sample or the conversation."""
    from meap_megatron.corpus.display import summary
    from meap_megatron.corpus.merge import as_prefix
    from meap_megatron.indexed.sidecar import check_prefix

    prefix = as_prefix(args.prefix)
    sidecar = check_prefix(prefix)
    is_stored = sidecar.kind == "sft" and not _given(args)
    _refuse_options_of_another_kind(args, prefix, sidecar)
    if args.index is None and (given := _given(args)):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{named}: without --index a summary is printed, which has no samples", fix="add --index 0")
    args.sample_defaults["mask_ratio"] = SFTConfig.ratio if sidecar.kind == "sft" else MaskConfig.ratio
    for name, value in args.sample_defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.index is None:
        print("\n".join(summary(prefix, sidecar)))
        return 0
    _check(args)
    (show_conversation if is_stored else show_sample)(args, prefix, sidecar)
    return 0


def show_conversation(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> None:
    """Print one conversation (or turn) as it is stored, before packing and masking.

    Raises:
        UserError: there is no such conversation.
    """
    from meap_megatron.corpus.display import text_of_ids
    from meap_megatron.corpus.sft.display import row_table
    from meap_megatron.indexed.pair import open_pair
    from meap_megatron.indexed.sidecar import roles_prefix

    if args.index >= sidecar.num_documents:
        there = counted(sidecar.num_documents, "row")
        raise UserError(f"--index {args.index}: {prefix} has {there}", fix="take a smaller --index")
    ids = open_pair(prefix)[args.index].tolist()
    roles = open_pair(roles_prefix(prefix))[args.index].tolist()
    start = args.start or 0
    stop = len(ids) if args.rows == 0 else min(len(ids), start + args.rows)
    what = "turn" if (sidecar.sft or {}).get("multi_turn") == "split" else "conversation"
    print(
        f"{prefix}: row {args.index} of {sidecar.num_documents:,}, the stored {what}, before packing and masking "
        f"(--seq-length N shows a row of training)\n"
        f"{counted(len(ids), 'token')}, {sum(role > 0 for role in roles)} of them trained\n"
    )
    text_of = text_of_ids(prefix, sidecar)
    for line in row_table(ids[start:stop], roles[start:stop], text_of=text_of, start=start, colour=_colour(args)):
        print(line)
    _say_what_is_left(start, stop, len(ids))


def show_sample(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> None:
    """Print one sample as training reads it.

    Raises:
        UserError: the split has no such sample, or an option breaks its rule.
    """
    from meap_megatron.corpus.display import table, text_of_ids

    sample, num_samples = read_sample(args, prefix, sidecar)
    length, masked = len(sample.tokens), sum(sample.changed)
    start = args.start or 0
    if args.start is None and sample.segments and masked:
        start = max(0, sample.changed.index(True) - BEFORE_MASK)
    stop = length if args.rows == 0 else min(length, start + args.rows)
    padding = f" and {args.seq_length - length} of padding" if length < args.seq_length else ""
    print(
        f"{prefix}: sample {args.index} of {num_samples:,} in {args.split_name} ({args.split}), seed {args.seed}\n"
        f"{counted(length, 'position')}{padding}, {masked} masked ({masked / length:.1%}), "
        f"loss on {sum(sample.trained)}"
    )
    for position, what in sample.segments.items():
        print(f"  from {position}: {what}")
    print()
    info = sidecar.tokenizer
    lines = table(
        sample,
        text_of=text_of_ids(prefix, sidecar),
        mask=(info.mask_id, info.mask_token),
        edges={token for token in (info.bos_id, info.eos_id) if token is not None},
        start=start,
        stop=stop,
        colour=_colour(args),
    )
    for line in lines:
        print(line)
    _say_what_is_left(start, stop, length)


def read_sample(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> tuple["ShownSample", int]:
    """Build the split with Megatron's builder and read one sample of it.

    Returns:
        The sample, and the number of samples of the split.

    Raises:
        UserError: the split has no such sample, or an option breaks its rule.
    """
    from meap_megatron.launch import megatron_import, runtime

    _check_split(args, sidecar)
    masking = masking_of(args, prefix, sidecar)
    runtime.set_thread_policy()
    megatron_import.quiet_imports()
    with megatron_import.triton_stub():
        from meap_megatron.datasets.provider import build_datasets, config_of_samples
    sizes: list[int | None] = [None, None, None]
    sizes[SPLITS.index(args.split_name)] = args.num_samples
    with tempfile.TemporaryDirectory(prefix="meap_show_") as cache:
        config = config_of_samples(
            prefix,
            seq_length=args.seq_length,
            seed=args.seed,
            split=args.split,
            cache=cache,
            masking=masking,
            mark_changes=True,
        )
        try:
            dataset: Any = build_datasets(config, sizes=sizes)[SPLITS.index(args.split_name)]
        except (AssertionError, IndexError) as error:
            raise UserError(
                f"{prefix} gives no sample of {args.seq_length} tokens in the split {args.split}: {error}"
            ) from error
        if dataset is None or not 0 <= args.index < len(dataset):
            count = 0 if dataset is None else len(dataset)
            raise UserError(
                f"--index {args.index}: {args.split_name} of {args.split} has {counted(count, 'sample')} of "
                f"{args.seq_length} tokens",
                fix="take a smaller --index, --seq-length or another --split-name",
            )
        return as_read(dataset, args.index), len(dataset)


def masking_of(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> MaskConfig | SFTConfig:
    """Return the masking that the options describe."""
    from meap_megatron.datasets.mask_stage import config_of_data
    from meap_megatron.datasets.sft.config import config_of_data as rows_of_data

    masking = from_args(MaskConfig, args, prefix="")
    masking["seed"] = args.seed if masking["seed"] is None else masking["seed"]
    if sidecar.kind != "sft":
        return config_of_data(prefix, sidecar, **masking, global_batch_size=args.global_batch_size)
    rows = from_args(SFTConfig, args, prefix=SFT)
    rows |= {name: masking[name] for name in ("ratio", "corruption", "seed", "mask_validation")}
    if not rows["ratio"]:
        rows |= {"ratio": SFTConfig.ratio, "layout": "ntp"}
    return rows_of_data(prefix, sidecar, **rows)


def as_read(dataset: Any, index: int) -> "ShownSample":
    """Return a sample of a dataset that was built with `mark_changes`, without the padding at its end."""
    from megatron.core.datasets.gpt_dataset import GPTDataset

    from meap_megatron.corpus.display import ShownSample
    from meap_megatron.datasets.mask_stage import CHANGED_INPUT
    from meap_megatron.datasets.sft.dataset import MEAPSFTDataset
    from meap_megatron.datasets.sft.reference import COPY, JOINED, ORIGINAL

    found = {name: value.clone().tolist() for name, value in dataset[index].items()}
    tokens, labels, marks = found["tokens"], found["labels"], [int(weight) for weight in found["loss_mask"]]
    changed = [bool(mark & int(CHANGED_INPUT)) for mark in marks]
    segments: dict[int, str] = {}
    if isinstance(dataset, MEAPSFTDataset):
        kinds = {ORIGINAL: "original", COPY: "masked copy", JOINED: "original and masked copy"}
        items = dataset.index.row(index)[0].tolist()
        names = [f"conversation {item // 4}, {kinds[item % 4]}" for item in items]
        segments = dict(zip(found["cu_seqlens"], names, strict=False))
        end = found["cu_seqlens"][len(items)]
        # A masked token belongs to an answer, so the label before it is of the same segment.
        unmasked = [labels[at - 1] if hidden else tokens[at] for at, hidden in enumerate(changed)]
    else:
        unmasked, end = GPTDataset.__getitem__(dataset, index)["tokens"].tolist(), len(tokens)
    return ShownSample(
        tokens=tokens[:end],
        unmasked=unmasked[:end],
        labels=labels[:end],
        changed=changed[:end],
        trained=[bool(mark & 1) for mark in marks[:end]],
        segments=segments,
    )


def _colour(args: argparse.Namespace) -> bool:
    return args.color == "always" or (args.color == "auto" and in_colour(sys.stdout))


def _say_what_is_left(start: int, stop: int, length: int) -> None:
    if start > 0 or stop < length:
        print(f"\npositions {start} to {stop - 1} of {length}; --rows 0 prints all")


def _given(args: argparse.Namespace) -> list[str]:
    """Return the options of samples that are on the command line."""
    return [name for name in args.sample_defaults if getattr(args, name) is not None]


def _refuse_options_of_another_kind(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> None:
    text = {one.name for one in declared(MaskConfig)} - OF_BOTH | {"global_batch_size"}
    rows = {f"{SFT}{one.name}" for one in declared(SFTConfig)}
    kind, wrong = ("fine-tuning data", text) if sidecar.kind == "sft" else ("text", rows)
    if wrong := wrong & set(_given(args)):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(wrong))
        raise UserError(f"{named}: {prefix} is {kind}, which has no such setting", fix="leave it out")


def _check_split(args: argparse.Namespace, sidecar: "Sidecar") -> None:
    """Refuse a split without documents before Megatron is imported to find that out."""
    from meap_megatron.launch.named_settings import Settings
    from meap_megatron.launch.recipe import Setting
    from meap_megatron.launch.splits import bounds, shares_of

    given = {"split": args.split, "skip_train": True}
    shares, _ = shares_of(Settings(table={name: Setting(value=value, origin="") for name, value in given.items()}))
    place = SPLITS.index(args.split_name)
    first, end = bounds(shares, sidecar.num_documents)[place] if shares[place] else (0, 0)
    if first == end:
        raise UserError(
            f"--split-name {args.split_name}: no document of {sidecar.num_documents:,} is in that split (--split "
            f"{args.split})",
            fix="give it a larger share, or take another --split-name",
        )


def _check(args: argparse.Namespace) -> None:
    for name, value, least in (
        ("--seq-length", args.seq_length, 2),
        ("--start", args.start, 0),
        ("--rows", args.rows, 0),
        ("--index", args.index, 0),
        ("--num-samples", args.num_samples, 1),
    ):
        if value is not None and value < least:
            raise UserError(f"{name} is {value}, it must be at least {least}")
