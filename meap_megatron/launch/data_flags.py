"""What follows from the data for the command line: vocabulary, segments, loss, steps. Read before Megatron is imported."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from meap_megatron.checkpoint.convert.spec import ModelSpec, padded_rows
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.launch import blend, data_rules, named_tokenizer, sft_settings
from meap_megatron.launch.blend import folder_hint
from meap_megatron.launch.data_sidecars import is_sft, named_prefixes, read_sidecars
from meap_megatron.launch.named_settings import Settings, of_command_line
from meap_megatron.launch.splits import Need, check_splits

SHAPE = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels")
PARTS = ("untie_embeddings_and_output_weights", "add_qkv_bias", "qk_layernorm", "no_rope_freq")
"""Settings that decide which tensors a model has, of which shape, and which layers rotate queries and keys."""


def data_flags(argv: list[str]) -> list[str]:
    """Return the flags that follow from the data: vocabulary, and for fine-tuning segments, loss and steps.

    Raises:
        UserError: the data is missing, or does not fit the settings.
    """
    settings = of_command_line(argv)
    prefixes = named_prefixes(settings)
    sidecars = check_named_data(settings)
    if not sidecars:
        return []
    flags = tokenizer_flags(settings, sidecars, prefixes)
    if is_sft(sidecars):
        # Segments of a packed row must not see each other: Megatron's name for that is inter-document masking.
        flags.append("--dataloader-inter-document-masking")
        if settings.get("meap_sft_loss") != "microbatch_mean":
            flags.append("--calculate-per-token-loss")
        sft_settings.check(of_command_line([*argv, *flags]).namespace())
    if settings.has("meap_epochs"):
        flags.append(f"--train-iters={steps_of_epochs(settings, sidecars, prefixes)}")
    return flags


def check_named_data(settings: Settings) -> list[Sidecar]:
    """Return the sidecars of all data that the settings name, checked against the settings; [] for mock data.

    Raises:
        UserError: the data is missing, or does not fit the settings.
    """
    prefixes = named_prefixes(settings)
    if not prefixes:
        if not settings.on("mock_data"):
            raise UserError("no training data", fix="give data_path, the prefix that `meap preprocess` wrote")
        if settings.has("meap_epochs"):
            raise UserError(
                "meap_epochs counts passes over data, and mock data has no end", fix="give train_iters instead"
            )
        return []
    from meap_megatron.checkpoint.convert.tokenizer_check import check_imports

    for prefix in prefixes:
        if (hint := folder_hint(prefix)) is not None:
            raise UserError(hint)
    sidecars = read_sidecars(prefixes)
    data_rules.check_kind(settings, prefixes, sft_data=is_sft(sidecars))
    check_imports(imported_from(settings), sidecars, prefixes)
    check_shape(settings)
    check_data(settings, dict(zip(prefixes, sidecars, strict=True)))
    return sidecars


def imported_from(settings: Settings) -> list[str]:
    """Return the folders that the weights may come from."""
    return [str(settings.get(name)) for name in ("pretrained_checkpoint", "load") if settings.has(name)]


def imported(settings: Settings) -> Iterator[tuple[str, ModelSpec]]:
    """Yield the folders of imports that a run's weights come from, and their models."""
    from meap_megatron.checkpoint.convert.record import read_record

    for folder in imported_from(settings):
        if (record := read_record(Path(folder))) is not None:
            yield folder, record.spec


def check_shape(settings: Settings) -> None:
    """Refuse a recipe whose model is not the imported one that its weights come from."""
    from meap_megatron.checkpoint.convert.megatron_config import recipe_settings

    for folder, spec in imported(settings):
        model = recipe_settings(spec)
        given = {name: settings.whole(name) for name in SHAPE}
        differing = [name for name in SHAPE if name in model and given[name] not in (None, model[name])]
        # Megatron skips in silence a tensor of the checkpoint that the model does not have.
        differing += [name for name in PARTS if str(model.get(name, False)) != str(settings.get(name) or False)]
        if differing:
            name = differing[0]
            more = f" (also different: {', '.join(differing[1:])})" if differing[1:] else ""
            mine = settings.get(name) if name in SHAPE else str(settings.get(name) or False).lower()
            raise UserError(
                f"the recipe has {name}={mine}, the model in {folder} {model.get(name, False)}{more}",
                fix=f"take its settings: extends: {Path(folder) / 'model.yaml'}",
            )


def check_data(settings: Settings, sidecars: dict[str, Sidecar]) -> None:
    """Refuse data of which a split that is read gives no row, or whose ids the embedding does not hold."""
    row = settings.whole("seq_length") or settings.whole("encoder_seq_length")
    if row is not None and settings.get("data_path") is not None:
        evaluates = settings.on("full_validation") or settings.effective("eval_iters") not in (0, "0")
        need = Need(
            row=row,
            evaluates=evaluates,
            whole_rows=len(blend.entries_of(settings.get("data_path"))) == len(sidecars) > 1,
            over_long=settings.get("meap_sft_over_long") or "error",
        )
        check_splits(settings, sidecars, need)
    size, rows = settings.whole("vocab_size"), settings.whole("padded_vocab_size")
    if rows is None and size is not None and settings.get("tokenizer_type") in (None, "NullTokenizer"):
        multiple, tensor = padding(settings)
        rows = padded_rows(size, multiple=multiple * tensor, tensor_parallel=tensor)  # Megatron's own rule
    for prefix, sidecar in sidecars.items():
        needed = sidecar.tokenizer.vocab_size
        if rows is not None and needed > rows:
            raise UserError(
                f"{prefix} holds ids up to {needed - 1} ([MASK] is {sidecar.tokenizer.mask_id}), but the embedding has "
                f"{rows} rows",
                fix=remedy_of_rows(settings),
            )


def remedy_of_rows(settings: Settings) -> str:
    """Return the way out where the embedding is too small for the data: what was given, or the model of an import."""
    if settings.has("pretrained_checkpoint") and settings.has("padded_vocab_size"):
        return (
            "the checkpoint has no row for [MASK]: import the model again with --add-mask-token and make the data with "
            "the tokenizer that the import saved"
        )
    names = [name for name in ("vocab_size", "padded_vocab_size", "tokenizer_type") if settings.has(name)]
    return f"leave {', '.join(names)} out: the number then follows from the data"


def steps_of_epochs(settings: Settings, sidecars: list[Sidecar], prefixes: list[str]) -> int:
    """Return the steps that `meap_epochs` asks for, counted in rows of the first epoch: packing differs between them.

    Raises:
        UserError: epochs of pre-training data or of a blend; steps and epochs both given; a setting it needs is missing.
    """
    if not is_sft(sidecars) or len(prefixes) != 1:
        raise UserError("meap_epochs counts passes over one fine-tuning dataset", fix="give train_iters instead")
    if settings.has("train_iters"):
        raise UserError(
            "train_iters and meap_epochs are both given", fix="keep one (train_iters=null drops a recipe's)"
        )
    args = settings.namespace()
    for name in ("seq_length", "global_batch_size"):
        if getattr(args, name) is None:
            raise UserError(f"meap_epochs needs {name}")
    if args.meap_epochs <= 0:
        raise UserError(f"meap_epochs={args.meap_epochs} must be above 0")
    import numpy as np

    from meap_megatron.datasets.sft.data import open_sft
    from meap_megatron.datasets.sft.packing import build_index

    data = open_sft(prefixes[0])
    shares = [float(share) for share in (args.split or "969,30,1").split(",")]  # Megatron's default
    _, summary = build_index(
        data,
        np.arange(round(len(data) * shares[0] / sum(shares)), dtype=np.int32),
        config=sft_settings.sft_config(args, sidecars[0], prefixes[0]),
        sequence_length=args.seq_length,
        num_rows=None,
        order_seed=args.seed,
    )
    return max(1, math.ceil(args.meap_epochs * int(summary["rows_per_epoch"]) / args.global_batch_size))


def tokenizer_flags(settings: Settings, sidecars: list[Sidecar], prefixes: list[str]) -> list[str]:
    """Return the flags that give Megatron the vocabulary of the data.

    Training never tokenises, so Megatron's placeholder tokenizer with the size from the sidecar is all it needs. A tokenizer
    that the command line names is compared with the data's, and gets the row for [MASK] that it lacks.

    Raises:
        UserError: it is another tokenizer.
    """
    if settings.has("tokenizer_type"):
        named = named_tokenizer.of_settings(settings)
        if named is None:
            return []
        named_tokenizer.check(named, sidecars[0], prefixes[0])
        return mask_row(settings, named, sidecars)
    if settings.has("vocab_size"):
        return ["--tokenizer-type=NullTokenizer"]
    size = max(sidecar.tokenizer.vocab_size for sidecar in sidecars)
    flags = ["--tokenizer-type=NullTokenizer", f"--vocab-size={size}"]
    if not settings.has("padded_vocab_size"):
        multiple, ranks = padding(settings)
        rows = padded_rows(size, multiple=multiple, tensor_parallel=ranks)
        # An imported table may be larger than its tokenizer.
        rows = next((spec.vocab_rows for _, spec in imported(settings)), rows)
        flags.append(f"--padded-vocab-size={rows}")
    return flags


def mask_row(settings: Settings, named: named_tokenizer.Named, sidecars: list[Sidecar]) -> list[str]:
    """Return the flag that gives the embedding a row for [MASK] where Megatron's padding leaves none, and say so."""
    if settings.has("padded_vocab_size", "vocab_size"):
        return []
    multiple = math.prod(padding(settings))  # Megatron's own rule
    needed = max(sidecar.tokenizer.vocab_size for sidecar in sidecars)
    given, rows = (padded_rows(size, multiple=multiple, tensor_parallel=1) for size in (named.size, needed))
    if rows <= given:
        return []
    if os.environ.get("RANK", "0") == "0":
        info = sidecars[0].tokenizer
        print(
            f"note: --tokenizer-model {named.path} has {named.size:,} ids and no {info.mask_token}, which is id "
            f"{info.mask_id} of the data; the embedding gets {rows:,} rows instead of {given:,}",
            flush=True,
        )
    return [f"--padded-vocab-size={rows}"]


def padding(settings: Settings) -> tuple[int, int]:
    """Return what the rows of the embedding are a multiple of, and the ranks that they are divided among."""
    multiple = settings.whole("make_vocab_size_divisible_by", 128) or 128
    return multiple, settings.whole("tensor_model_parallel_size", 1) or 1
