"""`meap convert import`: Hugging Face weights become a checkpoint that Megatron's trainer loads."""

import argparse
from pathlib import Path

from meap_megatron.checkpoint.convert.convert_settings import ImportSettings
from meap_megatron.declared import add_flags, from_args

HELP = """Turn a Hugging Face folder (or a GGUF file; Llama, Mistral, Qwen2; safetensors) into a checkpoint of Megatron.

  meap convert import Llama-3-8B checkpoints/llama3_8b --add-mask-token
  meap train checkpoints/llama3_8b/sft_meap.yaml data_path=data/mine

The checkpoint trains at any tensor and pipeline parallel size, with local layers and with Transformer Engine. Beside it are
recipes that need nothing but data: sft_meap.yaml and sft_ntp.yaml for fine-tuning, continue.yaml for more pre-training, and
model.yaml, the keys of the model, for recipes of your own (`extends: OUT/model.yaml`). No model is built: tensors are copied
one at a time. The logits of both sides are compared at the end; nothing stays if they differ."""

MEGATRON_LOGITS = "meap_megatron.training.logits"
"""The module that computes the logits of a checkpoint, started by name in a process of its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source", metavar="HF_DIR", type=Path, help="folder with config.json and safetensors files, or a .gguf file"
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    add_flags(parser, ImportSettings, prefix="")
    add_verification(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if an import made it")


def add_verification(parser: argparse.ArgumentParser) -> None:
    """Declare the options that import, export and verify share."""
    parser.add_argument("--skip-verification", action="store_true", help="do not compare the logits of both sides")
    parser.add_argument(
        "--verify-layers",
        type=layer_count,
        default=None,
        metavar="N",
        help="compare after the first N layers only (default: all, or as many as memory holds in float32)",
    )
    parser.add_argument(
        "--allow-config-field",
        action="append",
        default=[],
        metavar="NAME",
        help="a field of config.json that the converter does not know and that changes nothing; may be repeated",
    )


def layer_count(text: str) -> int:
    """Read a number of layers for argparse, which names what does not fit."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def run(args: argparse.Namespace) -> int:
    """Unpack a GGUF file, and import."""
    from meap_megatron.checkpoint.convert.folders import check_free
    from meap_megatron.checkpoint.convert.gguf_files import hf_source
    from meap_megatron.checkpoint.convert.record import RECORD

    check_free(args.output, overwrite=args.overwrite, marker=RECORD)
    allowed = tuple(args.allow_config_field)
    with hf_source(args.source, beside=args.output, tokenizer=args.tokenizer, allowed=allowed) as source:
        return _import(args, source)


def _import(args: argparse.Namespace, source: Path) -> int:
    """Check, write, compare, and print what goes with the model."""
    import shlex

    from meap_megatron.atomic import replace_folder
    from meap_megatron.checkpoint.convert.importing import plan_import, write_import
    from meap_megatron.checkpoint.convert.megatron_config import argv_of, recipe_settings
    from meap_megatron.checkpoint.convert.recipes import longest_row
    from meap_megatron.checkpoint.convert.record import HF_FOLDER, TOKENIZER_FOLDER

    def quote(path: Path) -> str:
        return shlex.quote(str(path))

    plan = plan_import(
        ImportSettings(
            **from_args(ImportSettings, args, prefix=""),
            source=source,
            origin=args.source,
            allowed_fields=tuple(args.allow_config_field),
        )
    )
    spec = plan.spec
    with replace_folder(args.output) as folder:
        write_import(plan, folder)
        if not args.skip_verification:
            from meap_megatron.checkpoint.convert.verifying import verify

            # The row of [MASK] may be new: ids that both sides have are compared.
            compared = verify(
                source,
                folder,
                megatron=MEGATRON_LOGITS,
                layers=args.verify_layers,
                allowed=tuple(args.allow_config_field),
                ignore_adapter=args.ignore_adapter,
            )
            print(compared.line())
    print(f"{args.output}: {spec.family}, {spec.num_parameters:,} parameters, {spec.vocab_rows:,} rows of vocabulary")
    if plan.mask is not None:
        print(f"{args.mask_token} is id {plan.mask.mask_id}; the tokenizer with it: {args.output / 'tokenizer'}")
    print(f"recipe keys of the model: {args.output / 'model.yaml'}; as Megatron's flags:")
    print(shlex.join(argv_of(recipe_settings(spec))))
    tokenizer = args.output / TOKENIZER_FOLDER if plan.mask is not None else args.tokenizer or args.source
    if source != args.source and plan.mask is None and args.tokenizer is None:
        tokenizer = args.output / HF_FOLDER
    if plan.tokenizer is not None and plan.tokenizer.info.mask_id >= spec.vocab_rows:
        print(f"it has no row for {args.mask_token}, which MEAP needs: import it with --add-mask-token to train it so")
        return 0
    print("to fine-tune it (to pre-train it further: meap preprocess text and continue.yaml):")
    data = f"--max-length {longest_row(spec) + 1} --output data/mine"
    print(f"  meap preprocess sft CONVERSATIONS --tokenizer {quote(tokenizer)} {data}")
    print(f"  meap train {quote(args.output / 'sft_meap.yaml')} data_path=data/mine")
    return 0
