"""`meap show`: the summary of a dataset, or one training sample as training reads it."""

import argparse
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from meap_megatron.config import MaskConfig
from meap_megatron.declared import add_flags, from_args
from meap_megatron.errors import UserError, counted

if TYPE_CHECKING:
    from meap_megatron.corpus.display import Position
    from meap_megatron.indexed.sidecar import Sidecar

SPLITS = ("train", "valid", "test")
HELP = """Print what a dataset holds, or one sample of it as columns: position, input, id, label, masked?, loss?

The sample is built by Megatron's own dataset builder, so it is the one that training reads when split, sequence
length, seed, masking and (beyond one epoch) the number of samples are those of the run.

Of fine-tuning data a row is shown as it is stored, one conversation before packing and masking: position, token, id,
role, trained? Of the options only --index, --start, --rows and --color apply to it.

  meap show corpus/c4
  meap show corpus/c4 --index 0 --seq-length 256
  meap show corpus/c4 --index 7 --mask-ratio 0.15 --mask-strategy span --span-length 5 --rows 0 | less -R
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prefix", metavar="PREFIX", help="dataset, without .bin or .idx")
    parser.add_argument(
        "--index", type=int, help="number of the sample in its split (SFT: of the row), from 0; without it a summary"
    )
    samples = parser.add_argument_group("samples of text", "as a run makes them; not for fine-tuning data")
    samples.add_argument("--seq-length", type=int, default=4096, help="tokens per sample (default: 4096)")
    samples.add_argument("--seed", type=int, default=1234, help="the run's seed: data order and masks (default: 1234)")
    samples.add_argument("--global-batch-size", type=int, help="samples per step, with strategy official51")
    split = "train, valid and test share, as the run has it (default: 100,0,0)"
    samples.add_argument("--split", default="100,0,0", help=split)
    samples.add_argument("--split-name", "--of", choices=SPLITS, default="train", help="which split (default: train)")
    samples.add_argument("--num-samples", type=int, help="samples that the run draws, if more than one epoch")
    add_flags(samples, MaskConfig, prefix="")
    defaults = {one.dest: one.default for one in samples._group_actions} | {"mask_ratio": MaskConfig.ratio}
    samples.add_argument("--strategy", dest="mask_strategy", help=argparse.SUPPRESS)  # its name before 0.2
    # None, so that what is given can be told from what is not.
    parser.set_defaults(**dict.fromkeys(defaults), sample_defaults=defaults)
    parser.add_argument("--start", type=int, default=0, help="first position to print (default: 0)")
    parser.add_argument("--rows", type=int, default=64, help="positions to print, 0 for all (default: 64)")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")


def run(args: argparse.Namespace) -> int:
    """Print the summary or the sample."""
    from meap_megatron.corpus.display import summary, table
    from meap_megatron.corpus.merge import as_prefix
    from meap_megatron.indexed.sidecar import check_prefix

    prefix = as_prefix(args.prefix)
    sidecar = check_prefix(prefix)
    if sidecar.kind == "sft":
        _refuse_sample_options(args, prefix)
    _fill_in(args)
    if args.index is None:
        print("\n".join(summary(prefix, sidecar)))
        return 0
    _check(args)
    if sidecar.kind == "sft":
        show_row(args, prefix, sidecar)
        return 0
    rows, num_samples = read_sample(args, prefix, sidecar)
    colour = _colour(args)
    masked = sum(row.masked for row in rows)
    trained = sum(row.loss > 0 for row in rows)
    print(
        f"{prefix}: sample {args.index} of {num_samples:,} in {args.split_name} ({args.split}), seed {args.seed}\n"
        f"{counted(len(rows), 'position')}, {masked} masked ({masked / len(rows):.1%}), loss on {trained}\n"
    )
    stop = len(rows) if args.rows == 0 else args.start + args.rows
    for line in table(rows[args.start : stop], colour=colour):
        print(line)
    if args.start > 0 or stop < len(rows):
        print(f"\npositions {args.start} to {min(stop, len(rows)) - 1} of {len(rows)}; --rows 0 prints all")
    return 0


def show_row(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> None:
    """Print one row of fine-tuning data as it is stored: one conversation (or turn), before packing and masking.

    Raises:
        UserError: there is no such row.
    """
    from meap_megatron.corpus.display import text_of_ids
    from meap_megatron.corpus.sft.display import row_table
    from meap_megatron.indexed.pair import open_pair
    from meap_megatron.indexed.sidecar import roles_prefix

    if args.index >= sidecar.num_documents:
        there = counted(sidecar.num_documents, "row")
        raise UserError(f"--index {args.index}: {prefix} has {there}; take a smaller --index")
    ids = open_pair(prefix)[args.index].tolist()
    roles = open_pair(roles_prefix(prefix))[args.index].tolist()
    stop = len(ids) if args.rows == 0 else min(len(ids), args.start + args.rows)
    what = "turn" if (sidecar.sft or {}).get("multi_turn") == "split" else "conversation"
    print(
        f"{prefix}: row {args.index} of {sidecar.num_documents:,}, the stored {what}, before packing and masking\n"
        f"{counted(len(ids), 'token')}, {sum(role > 0 for role in roles)} of them trained\n"
    )
    lines = row_table(
        ids[args.start : stop],
        roles[args.start : stop],
        text_of=text_of_ids(prefix, sidecar),
        start=args.start,
        colour=_colour(args),
    )
    for line in lines:
        print(line)
    if args.start > 0 or stop < len(ids):
        print(f"\npositions {args.start} to {stop - 1} of {len(ids)}; --rows 0 prints all")


def read_sample(args: argparse.Namespace, prefix: str, sidecar: "Sidecar") -> tuple[list["Position"], int]:
    """Build the split with Megatron's builder and read one sample of it.

    Returns:
        The rows, and the number of samples of the split.

    Raises:
        UserError: the split has no such sample, or a masking option breaks its rule.
    """
    from meap_megatron.corpus.display import rows, text_of_ids
    from meap_megatron.datasets.mask_stage import config_of_data
    from meap_megatron.launch import megatron_import, runtime

    _check_split(args, sidecar)
    info = sidecar.tokenizer
    fields = from_args(MaskConfig, args, prefix="")
    fields["seed"] = args.seed if fields["seed"] is None else fields["seed"]
    mask = config_of_data(prefix, sidecar, **fields, global_batch_size=args.global_batch_size)
    runtime.set_thread_policy()
    megatron_import.quiet_imports()
    with megatron_import.triton_stub():
        from megatron.core.datasets.gpt_dataset import GPTDataset

        from meap_megatron.datasets.provider import build_datasets, config_of_text
    sizes: list[int | None] = [None, None, None]
    sizes[SPLITS.index(args.split_name)] = args.num_samples
    with tempfile.TemporaryDirectory(prefix="meap_show_") as cache:
        config = config_of_text(
            prefix,
            seq_length=args.seq_length,
            seed=args.seed,
            split=args.split,
            cache=cache,
            mask=mask,
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
                f"{args.seq_length} tokens; take a smaller --index, --seq-length or another --split-name"
            )
        sample = {name: value.clone() for name, value in dataset[args.index].items()}
        unmasked = GPTDataset.__getitem__(dataset, args.index)["tokens"].tolist()
    marks = sample["loss_mask"].long().tolist()
    lines = rows(
        inputs=sample["tokens"].tolist(),
        unmasked=unmasked,
        labels=sample["labels"].tolist(),
        changed=[bool(mark & 2) for mark in marks],
        loss=[float(mark & 1) for mark in marks],
        mask=(info.mask_id, info.mask_token),
        edges={token for token in (info.bos_id, info.eos_id) if token is not None},
        text_of=text_of_ids(prefix, sidecar),
    )
    return lines, len(dataset)


def _colour(args: argparse.Namespace) -> bool:
    terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return args.color == "always" or (args.color == "auto" and terminal)


def _refuse_sample_options(args: argparse.Namespace, prefix: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in args.sample_defaults if getattr(args, name) is not None]
    if given:
        raise UserError(
            f"{', '.join(given)}: {prefix} is fine-tuning data, of which stored rows are shown, before packing and "
            f"masking; leave out what makes samples (--index, --start, --rows and --color apply)"
        )


def _fill_in(args: argparse.Namespace) -> None:
    for name, value in args.sample_defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


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
            f"{args.split}); give it a larger share, or take another --split-name"
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
