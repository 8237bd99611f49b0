"""Wrong settings are refused by key, value, rule and remedy before Megatron or torch is imported, by `train` and `cache`."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.launch import preflight
from meap_megatron.launch.named_settings import of_command_line
from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl
from tests.support.runs import RECIPES, ROOT, meap

CASES: dict[str, tuple[str, str, str]] = {
    # overrides -> the key and value that are named, and the remedy
    "train_iters=0": ("train_iters=0", "at least 1", ""),
    "train_iters=-5": ("train_iters=-5", "at least 1", ""),
    "train_iters=null": ("the length of the run is not given", "train_iters, train_samples or meap_epochs", ""),
    "train_samples=100": ("train_iters=200 and train_samples=100 are both given", "keep one", "train_iters=null"),
    "train_iters=null train_samples=4 lr_warmup_fraction=null": ("train_samples=4", "global_batch_size=8", "raise it"),
    "train_iters=null train_samples=80 lr_decay_iters=5": ("lr_decay_iters=5 counts steps", "train_samples=80", ""),
    "lr_decay_samples=50": ("lr_decay_samples=50 counts samples", "train_iters=200", "give lr_decay_iters"),
    "lr_warmup_samples=50": ("lr_warmup_samples=50 counts samples", "train_iters=200", "give lr_warmup_iters"),
    "micro_batch_size=0": ("micro_batch_size=0", "at least 1", ""),
    "global_batch_size=0": ("global_batch_size=0", "at least 1", ""),
    "global_batch_size=7": ("global_batch_size=7", "not divisible by", "one of 1, 7"),
    "eval_global_batch_size=3": ("eval_global_batch_size=3", "not divisible by", "one of 1, 3"),
    "eval_micro_batch_size=0": ("eval_micro_batch_size=0", "at least 1", ""),
    "num_layers=null": ("num_layers", "is not given", "model.yaml"),
    "hidden_size=null": ("hidden_size", "is not given", "model.yaml"),
    "num_attention_heads=null": ("num_attention_heads", "is not given", "model.yaml"),
    "seq_length=null max_position_embeddings=64": ("seq_length", "is not given", ""),
    "encoder_num_layers=4": ("encoder_num_layers=4", "two names of one setting", "leave encoder_num_layers out"),
    "hidden_size=129": ("hidden_size=129", "not divisible by num_attention_heads=4", "kv_channels"),
    "num_query_groups=3": ("num_query_groups=3", "does not divide num_attention_heads=4", ""),
    "group_query_attention=false": ("num_query_groups=2", "no effect without group_query_attention=true", ""),
    "seq_length=512": ("seq_length=512", "max_position_embeddings=256", "raise max_position_embeddings"),
    "max_position_embeddings=8": ("seq_length=256", "max_position_embeddings=8", "raise max_position_embeddings"),
    "position_embedding_type=learned_absolute rotary_base=5000": ("rotary_base=5000", "no effect", "leave"),
    "position_embedding_type=yarn rotary_scaling_factor=4": ("yarn_original_max_position_embeddings", "needs", "set"),
    "rotary_scaling_factor=4": ("rotary_scaling_factor=4", "no effect", "yarn"),
    "yarn_beta_fast=16": ("yarn_beta_fast=16", "no effect", "yarn"),
    "no_rope_freq=3": ("no_rope_freq=3", "num_layers", "divide"),
    'no_rope_freq="[0,1,1,1,1]"': ("no_rope_freq=[0,1,1,1,1]", "5 layers", "list each"),
    "nproc=3 tensor_model_parallel_size=3": ("num_attention_heads=4", "tensor_model_parallel_size=3", "1, 2, 4"),
    "nproc=2 tensor_model_parallel_size=4": ("2 processes cannot", "tensor 4", "start 4"),
    "nproc=2 pipeline_model_parallel_size=2 num_layers=3": ("num_layers=3", "pipeline_model_parallel_size=2", "1, 3"),
    "nproc=2 pipeline_model_parallel_size=2 decoder_first_pipeline_num_layers=9": (
        "num_layers=4 cannot be cut into whole blocks by pipeline_model_parallel_size=2",
        "decoder_first_pipeline_num_layers=9",
        "change num_layers",
    ),
    "account_for_loss_in_pipeline_split=true nproc=2 pipeline_model_parallel_size=2": (
        "num_layers=4 cannot be cut",
        "account_for_loss_in_pipeline_split=True",
        "layout",
    ),
    "recompute_granularity=selective recompute_modules=[attn]": (
        "recompute_modules=attn contains attn",
        "core_attn",
        "",
    ),
    "swiglu=false squared_relu=true disable_bias_linear=false": ("squared_relu=true", "a bias", "no_bias_gelu_fusion"),
    "moe_router_topk=1": ("moe_router_topk=1", "always 1", "moe_router_pre_softmax=true"),
    "num_virtual_stages_per_pipeline_rank=2": ("num_virtual_stages_per_pipeline_rank=2", "above 1", "leave it out"),
    "nproc=2 context_parallel_size=2": ("context_parallel_size=2", "needs GPUs", ""),
    "expert_model_parallel_size=2": ("expert_model_parallel_size=2", "num_experts", "leave it out"),
    "lr=null": ("lr,", "is not given", "lr=3.0e-4"),
    "lr=0": ("lr=0", "above 0", ""),
    "min_lr=1": ("min_lr=1 is above lr=0.002", "", "lower it, or raise lr"),
    "lr_warmup_init=1": ("lr_warmup_init=1 is above lr=0.002", "", "lower it"),
    "min_lr=-1": ("min_lr=-1", "at least 0", ""),
    "lr_warmup_iters=3": ("lr_warmup_iters=3 and lr_warmup_fraction=0.1", "both given", "keep one"),
    "lr_warmup_fraction=1.0": ("lr_warmup_fraction=1.0", "in [0, 1)", ""),
    "lr_warmup_fraction=null lr_warmup_iters=500": ("lr_warmup_iters=500", "train_iters=200", "shorten"),
    "lr_warmup_fraction=null lr_warmup_iters=9 lr_decay_iters=9": ("lr_warmup_iters=9", "lr_decay_iters=9", "shorten"),
    "lr_decay_style=WSD": ("lr_decay_style=WSD", "lr_wsd_decay_iters", "set lr_wsd_decay_iters"),
    "lr_decay_style=exponential": ("lr_decay_style='exponential'", "cosine", ""),
    "override_opt_param_scheduler=true use_checkpoint_opt_param_scheduler=true": (
        "override_opt_param_scheduler=true",
        "use_checkpoint_opt_param_scheduler",
        "keep one",
    ),
    "start_weight_decay=0.1": ("start_weight_decay=0.1", "weight_decay_incr_style", "give weight_decay"),
    "weight_decay_incr_style=linear": ("weight_decay_incr_style=linear", "start_weight_decay and", "both ends"),
    "weight_decay_incr_style=linear start_weight_decay=0.2 end_weight_decay=0.1": (
        "start_weight_decay=0.2",
        "above end_weight_decay=0.1",
        "swap",
    ),
    "weight_decay=-1": ("weight_decay=-1", "at least 0", ""),
    "adam_beta2=1.0": ("adam_beta2=1.0", "in [0, 1)", ""),
    "adam_eps=0": ("adam_eps=0", "above 0", ""),
    "clip_grad=-1": ("clip_grad=-1", "at least 0", ""),
    "hidden_dropout=1.5": ("hidden_dropout=1.5", "in [0, 1)", ""),
    "seed=0": ("seed=0", "from 1", ""),
    "seed=-3": ("seed=-3", "from 1", ""),
    "save_interval=0": ("save_interval=0", "at least 1", ""),
    "eval_interval=0": ("eval_interval=0", "at least 1", ""),
    "eval_iters=-1": ("eval_iters=-1", "at least 0", ""),
    "log_interval=0": ("log_interval=0", "at least 1", ""),
    "log_memory_interval=3": ("log_memory_interval=3", "multiple of log_interval=10", ""),
    "num_workers=-1": ("num_workers=-1", "at least 0", ""),
    "num_dataset_builder_threads=0": ("num_dataset_builder_threads=0", "at least 1", ""),
    "bf16=true fp16=true": ("bf16=true and fp16=true are both given", "one precision", "leave one out"),
    "fp32_residual_connection=true": ("fp32_residual_connection=true", "needs bf16=true or fp16=true", "leave"),
    "overlap_param_gather=true": (
        "overlap_param_gather=true",
        "use_distributed_optimizer",
        "set use_distributed_optimizer",
    ),
    "use_distributed_optimizer=true overlap_param_gather=true": (
        "overlap_param_gather=true",
        "overlap_grad_reduce",
        "",
    ),
    "transformer_impl=inference_optimized": (
        "transformer_impl=inference_optimized",
        "not for training",
        "leave it out",
    ),
    "tp_comm_overlap=true": ("tp_comm_overlap=true", "sequence_parallel", ""),
    "recompute_granularity=full": ("recompute_granularity=full", "recompute_method", "uniform"),
    "recompute_granularity=selective recompute_method=block": ("recompute_method=block", "selective", "leave it out"),
    "distribute_saved_activations=true": ("distribute_saved_activations=true", "full", "leave"),
    "save_retain_interval=5": ("save_retain_interval", "deletes", "meap_keep_checkpoints"),
    "mock_data=true": ("mock_data=true and data_path", "one source", "leave one out"),
    "data_path=null train_data_path={data}": ("train_data_path={data} and split=98,2,0", "data of its own", ""),
    "data_path=null mock_data=true": ("mock_data=true", "needs vocab_size", "set vocab_size"),
    "data_path=null": ("no training data", "data_path", "meap preprocess"),
    "data_path={folder}": ("data_path={folder} is a folder", "{data}", ""),
    "data_path=[1,{data},{data}]": ("data_path=1 {data} {data}", "alternate", "prefixes alone"),
    "data_path=[1,{data},{data},2]": ("data_path=1 {data} {data} 2", "alternate", "prefixes alone"),
    "data_path=[0,{data},1,{data}]": ("the weight 0 of {data}", "above 0", "leave {data} out"),
    "data_path=[-1,{data},1,{data}]": ("the weight -1 of {data}", "above 0", "leave"),
    "data_path=[.nan,{data},1,{data}]": ("the weight nan of {data}", "above 0", "leave"),
    "split=0,0,0": ("split=0,0,0", "no data to train on", ""),
    "split=0,50,50": ("split=0,50,50", "no data to train on", ""),
    "split=-50,50,0": ("split=-50,50,0", "at least 0", "split=98,2,0"),
    "split=1,2,3,4": ("split=1,2,3,4", "three numbers", "split=98,2,0"),
    "split=many": ("split=many", "three numbers", "split=98,2,0"),
    "split=98,2,0": ("the valid split of {data} is empty", "split=98,2,0", "split=80,20,0"),
    "split=null": ("split=969,30,1, Megatron's default", "is empty", "split=80,20,0"),
    "data_path={one} split=50,50,0": ("of {one} is empty: 1 document", "split=100,0,0", "more documents"),
    "data_path={short} split=50,50,0": (
        "the valid split of {short} is shorter than a row",
        "seq_length=256",
        "larger share",
    ),
    "data_path=[{data},{short}] split=50,50,0 eval_iters=0": ("the train split of {short}", "shorter", "larger share"),
    "split=100,0,0 full_validation=true": ("full_validation=true", "needs validation data", "share of split"),
    "vocab_size=64 split=50,50,0": ("{data} holds ids up to", "[MASK]", "leave vocab_size out"),
    "padded_vocab_size=64 split=50,50,0": ("{data} holds ids up to", "64 rows", "leave padded_vocab_size out"),
    "wandb_project=x save=null": ("wandb_project=x", "needs a folder", "set save"),
    "meap_mask_ratio=1.0": ("meap_mask_ratio=1.0", "[0, 1)", "0.15"),
    "meap_span_length=0": ("meap_span_length=0", "at least 1", ""),
    "meap_mask_ratio=0.5:0.1": ("the range 0.5:0.1 is empty", "", ""),
    "meap_mask_ratio=0.1@0,0.2": ("needs its @PROGRESS", "", ""),
    "meap_mask_ratio=0.1 meap_corruption=noise": ("corruption is 'noise'", "", ""),
    "meap_mask_ratio=0.1 meap_corruption=mix:1,1,1": ("add up to 1", "", ""),
    "meap_mask_ratio=0.1 meap_clean_fraction=1": ("meap_clean_fraction=1 must be in [0, 1)", "", ""),
    "meap_mask_ratio=0.1 meap_loss_on=everything": ("loss_on is 'everything'", "", ""),
    "meap_mask_ratio=0.1 meap_pair=clean+masked meap_pair_weight=2": ("must be in [0, 1]", "", ""),
    "meap_mask_ratio=0.1 meap_pair=clean+masked global_batch_size=9 micro_batch_size=1": ("two per sample", "", ""),
    "meap_corruption=random": ("no effect without meap_mask_ratio", "", ""),
    "meap_mask_ratio=0.1 meap_skip_first=-1": ("must be at least 0", "", ""),
    "meap_mask_strategy=official51 dataloader_type=cyclic": ("official51", "cyclic", "use single"),
    "hierarchical_context_parallel_sizes=[2,2]": ("hierarchical_context_parallel_sizes=[2, 2]", "product 4", "=1"),
    "mtp_num_layers=1": ("mtp_num_layers=1", "not wired", "leave it out"),
    "split=50,50,0 meap_sft_loss=microbatch_mean": ("meap_sft_loss=microbatch_mean", "meap preprocess sft", "text"),
    "split=50,50,0 meap_epochs=2 train_iters=null": ("meap_epochs", "{data} is text", "pre-training recipe"),
    "num_query_groups=4 hidden_size=16 ffn_hidden_size=null": ("hidden_size=16", "width 0", "set ffn_hidden_size"),
    "nproc=3 tensor_model_parallel_size=3 kv_channels=9 hidden_size=64 num_attention_heads=3 group_query_attention=false "
    "num_query_groups=null swiglu=false ffn_hidden_size=null": (
        "ffn_hidden_size=256",
        "tensor_model_parallel_size=3",
        "",
    ),
    "iterations_to_skip=4": ("iterations_to_skip=4 must be a list", "iterations_to_skip=[4]", ""),
    "iterations_to_skip=[4,0]": ("iterations_to_skip=0", "at least 1", ""),
    "rampup_batch_size=[4,4]": ("rampup_batch_size=[4, 4]", "must have 3 values", ""),
    "split=50,50,0 meap_sft=true": ("meap_sft=true", "{data} is text", "pre-training recipe"),
    "split=50,50,0 meap_sft_layout=separate": ("meap_sft_layout=separate", "{data} is text", "pre-training recipe"),
    "data_path={talk} meap_sft=true split=50,50,0 reset_attention_mask=true": (
        "reset_attention_mask",
        "leave them out",
        "",
    ),
    "data_path={talk} meap_sft=true split=50,50,0 dataloader_type=cyclic": ("cyclic", "use single", ""),
    "data_path={talk} meap_sft=true split=50,50,0 seq_length=64": ("seq_length=64", "--max-length 65", ""),
    "split=50,50,0 data_path={talk}": ("{talk} is data of", "no setting says", "set meap_sft=true"),
    "data_path=null mock_data=true vocab_size=500 meap_epochs=2 train_iters=null": (
        "meap_epochs",
        "mock data has no end",
        "train_iters",
    ),
}
LAST = "split=80,20,0"

RUNNER = """
import contextlib, io, json, sys
sys.modules["torch"] = sys.modules["megatron"] = sys.modules["transformers"] = None
from meap_megatron.cli.main import main
results = []
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
    results.append([status, said.getvalue()])
json.dump(results, sys.stdout)
"""


def run_without_megatron(commands: list[list[str]]) -> list[list[Any]]:
    """Return status and stderr of `meap` commands, all in one process that can import neither Megatron nor torch."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the places that cases name; {talk} conversations, {data} has 9 documents, {short} of 40 letters, {one} one."""
    root = tmp_path_factory.mktemp("wrong_settings")
    texts = library_texts(60_000)
    write_jsonl(root / "data.jsonl", texts)
    write_jsonl(root / "short.jsonl", tuple(text[:40] for text in texts))
    write_jsonl(root / "one.jsonl", texts[:1])
    write_byte_tokenizer(root / "tokenizer", vocab_size=300, texts=texts)
    folder = root / "prepared"
    folder.mkdir()
    for name in ("data", "short", "one"):
        meap(
            "preprocess", "text", root / f"{name}.jsonl", "--tokenizer", root / "tokenizer", "--output", folder / name
        )
    rows = [{"instruction": "Say a word", "output": "word"}] * 8
    (root / "talk.json").write_text(json.dumps(rows))
    words = ["--tokenizer", root / "tokenizer", "--template", "alpaca", "--max-length", "257"]
    meap("preprocess", "sft", root / "talk.json", *words, "--output", root / "talk")
    return {
        "talk": str(root / "talk"),
        "data": str(folder / "data"),
        "short": str(folder / "short"),
        "one": str(folder / "one"),
        "folder": str(folder),
        "run": str(root / "run"),
    }


@pytest.fixture(scope="module")
def refusals(names: dict[str, str]) -> dict[str, dict[str, list[Any]]]:
    """Return what `train` and `cache` say to every case: case -> verb -> [status, stderr]."""
    recipe = str(RECIPES / "tiny_cpu_ntp.yaml")
    commands = []
    for case in CASES:
        overrides = [f"data_path={names['data']}", f"save={names['run']}", "device=cpu"]
        overrides += [] if "data_path" in case or "split" in case else [LAST]
        commands += [[verb, recipe, *overrides, *case.format(**names).split()] for verb in ("train", "cache")]
    results = iter(run_without_megatron(commands))
    return {case: {"train": next(results), "cache": next(results)} for case in CASES}


SEVERAL = {
    "lr_warmup_samples=50": 2,
    "nproc=3 tensor_model_parallel_size=3": 3,
    "overlap_param_gather=true": 2,
    "tp_comm_overlap=true": 2,
    "mock_data=true": 2,
}
"""Cases that break several rules, and how many; all others break one."""


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_setting_is_named_before_megatron_is_imported(
    names: dict[str, str], refusals: dict[str, dict[str, list[Any]]], case: str
) -> None:
    status, said = refusals[case]["train"]
    assert status == 2, said
    for part in CASES[case]:
        assert part.format(**names) in said
    assert said.startswith("meap: error: ") and "Traceback" not in said
    assert len(re.findall(r"^  \d+\. ", said, re.MULTILINE)) == SEVERAL.get(case, 0), "each problem once"
    assert not Path(names["run"]).exists()


OF_THE_JOB = {
    "nproc=2 tensor_model_parallel_size=4",
    "global_batch_size=7",
    "eval_global_batch_size=3",
    "save_retain_interval=5",
}
"""What depends on the processes or the checkpoints of the job, of which `meap cache` knows nothing."""


@pytest.mark.parametrize("case", sorted(set(CASES) - OF_THE_JOB))
def test_the_cache_is_refused_for_the_same_reason(refusals: dict[str, dict[str, list[Any]]], case: str) -> None:
    assert refusals[case]["cache"] == refusals[case]["train"]


WHOLE = (
    "--num-layers=2 --hidden-size=64 --num-attention-heads=4 --seq-length=64 --train-iters=10 --lr=0.1 --micro-batch-size=1 "
    "--global-batch-size=2 --mock-data --vocab-size=100 --meap-device=cpu"
).split()


@pytest.mark.parametrize(
    "words",
    [
        "--meap-span-length=0",
        "--meap-mask-ratio=2",
        "--meap-mask-ratio=0.1 --meap-corruption=noise",
        "--meap-mask-ratio=0.1 --meap-loss-on=masked=x",
        "--meap-mask-ratio=0.1 --meap-pair=clean+masked --meap-pair-weight=0",
        "--meap-mask-ratio=0.1 --meap-pair=clean+masked --meap-pair-weight=3",
        "--bf16 --fp8-format=e4m3 --fp8-recipe=mxfp8 --meap-device=cuda --fp8-param-gather",
        "--context-parallel-size=2",
    ],
)
def test_a_flag_that_breaks_one_rule_is_one_problem(words: str) -> None:
    settings = of_command_line([*WHOLE, *words.split()])
    world = settings.whole("context_parallel_size")
    assert len(preflight.problems(settings, world=world)) == 1
    assert not preflight.problems(of_command_line(WHOLE), world=1)
