"""`meap convert export`: a checkpoint of Megatron becomes a Hugging Face folder."""

import argparse
from pathlib import Path

from meap_megatron.checkpoint.convert.convert_settings import ExportSettings
from meap_megatron.cli.convert_import import MEGATRON_LOGITS, add_verification
from meap_megatron.declared import add_flags, from_args

HELP = """Turn a checkpoint of Megatron into a Hugging Face folder: config, safetensors, tokenizer.

  meap convert export runs/mine hf/mine
  meap convert export runs/mine/iter_0000100 hf/step100 --dtype bfloat16

The newest checkpoint of a save folder is taken. Rows of the vocabulary that no token has are cut off; [MASK] is never
generated (generation_config.json). meap_eval.json tells the evaluation how documents began in training. The logits of both
sides are compared at the end; nothing stays if they differ."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="save folder, import, or iter_* folder")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    add_flags(parser, ExportSettings, prefix="")
    add_verification(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if an export made it")


def run(args: argparse.Namespace) -> int:
    """Check, write, compare."""
    from meap_megatron.atomic import replace_folder
    from meap_megatron.checkpoint.convert.exporting import EVAL_RECORD, plan_export, write_export
    from meap_megatron.checkpoint.convert.folders import check_free

    check_free(args.output, overwrite=args.overwrite, marker=EVAL_RECORD)
    plan = plan_export(ExportSettings(checkpoint=args.checkpoint, **from_args(ExportSettings, args, prefix="")))
    with replace_folder(args.output) as folder:
        write_export(plan, folder)
        problem = None
        if not args.skip_verification:
            from meap_megatron.checkpoint.convert.verifying import tokenizer_problem, verify

            problem = tokenizer_problem(folder)
            if args.dtype is not None and plan.rounds(args.dtype):
                print(f"logits not compared: --dtype {args.dtype} rounds the stored weights")
            else:
                allowed = (*args.allow_config_field, *plan.inherited_fields)
                print(
                    verify(
                        folder,
                        plan.checkpoint.path,
                        megatron=MEGATRON_LOGITS,
                        layers=args.verify_layers,
                        allowed=allowed,
                    ).line()
                )
    spec, cut = plan.spec, plan.stored.vocab_rows - plan.spec.vocab_rows
    size = f"{spec.num_parameters:,} parameters, {spec.vocab_rows:,} rows ({cut} cut off)"
    print(f"{args.output}: {spec.family}, {size}")
    if problem:
        print(f"warning: {problem.replace(str(folder), str(args.output))}")
    return 0
