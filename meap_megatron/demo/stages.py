"""The demo, stage by stage: corpus, tokenizer, index, check, sample, the two runs, the page, and what they retrieve."""

import json
import platform as machine
from pathlib import Path
from typing import Any

from meap_megatron.atomic import replace_text
from meap_megatron.demo import retrieval
from meap_megatron.demo.arms import DemoArm, run_side_by_side
from meap_megatron.demo.corpus import Corpus, read_texts, standard_library, write_corpus
from meap_megatron.demo.output_folder import room_for
from meap_megatron.demo.picture import draw_picture
from meap_megatron.demo.sample import Cell, as_record, read_sample, readable_window
from meap_megatron.demo.screen import Screen
from meap_megatron.demo.sections import Record, headline, next_commands, sections
from meap_megatron.demo.sizes import ARMS, MASK_RATIO, DemoSizes, meap_recipe, ntp_recipe
from meap_megatron.errors import RunError, counted
from meap_megatron.formats import duration
from meap_megatron.report.collect import ReportedRun, collect
from meap_megatron.report.history import Results, read_results
from meap_megatron.report.page import default_baseline, write
from meap_megatron.tokenizer.train import train_tokenizer
from meap_megatron.version import installed

STAGES = 10
SAMPLE_INDEX = 0
DRAWN_CELLS = 72
PACKAGES = ("megatron-core", "torch", "transformers", "tokenizers", "gigatoken", "numpy")


def demo(out: Path, *, plan: DemoSizes, overwrite: bool = False) -> Record:
    """Run the demo and write OUT/index.html, OUT/demo.png and OUT/demo.json.

    The page is there as soon as both arms are trained; it is written again when they are evaluated.

    Args:
        out: folder; must be empty or absent, unless `overwrite`.
        plan: sizes.
        overwrite: replace an earlier demo there, which stays until this one is complete.

    Returns:
        The record in demo.json: corpus, machine, versions, stages, sample, masked validation, seconds, and what was done
        about retrieval.

    Raises:
        UserError: the folder is not empty, or this interpreter has no standard library as files.
        RunError: a check of the data, or one of the runs, failed.
    """
    with room_for(out, overwrite=overwrite):
        return make(out, plan)


def make(out: Path, plan: DemoSizes) -> Record:
    """Run the demo in a folder that has nothing of an earlier one."""
    screen = Screen(STAGES)
    screen.say(f"meap demo: NTP and MEAP side by side, {counted(plan.train_iters, 'step')} each, into {out}/\n")
    prefix = out / "data" / "stdlib"
    corpus = make_corpus(screen, out, plan)
    vocab_size = make_tokenizer(screen, out, corpus, plan)
    sidecar = make_index(screen, out, corpus, prefix)
    check_index(screen, prefix)
    sample, peak_tflops = draw_sample(screen, plan, prefix)

    cores = available_cores()
    threads = max(1, cores // len(ARMS))
    write_recipes(out, plan, prefix=prefix, peak_tflops=peak_tflops)
    results = train(screen, out, threads=threads)
    masked_validation = validate_on_masked(screen, out, threads=threads)
    record: Record = {
        "out": str(out),
        "plan": vars(plan),
        "corpus": {
            "num_documents": corpus.num_documents,
            "num_bytes": corpus.num_bytes,
            "num_tokens": sidecar.num_tokens,
            "vocab_size": vocab_size,
            "bytes_per_token": corpus.num_bytes / sidecar.num_tokens,
        },
        "machine": {"cores": cores, "processor": processor_name(), "threads_per_arm": threads},
        "versions": {"Python": machine.python_version(), **installed(PACKAGES)},
        "stages": screen.stages,
        "sample_index": SAMPLE_INDEX,
        "sample": as_record(sample),
        "masked_validation": masked_validation,
        "retrieval": "The evaluation follows; this page is written again after it.",
    }
    with screen.stage("page") as stage:
        draw_picture(out / "demo.png", ntp=results["ntp"], meap=results["meap"])
        write_page(screen, out, collect(retrieval.result_folders(out, evaluated=False)), results, sample, record)
        stage["made"] = f"{out / 'index.html'}, {out / 'demo.png'}"
    runs = evaluate(screen, out, plan, record=record, threads=threads)
    write_page(screen, out, runs, results, sample, record)
    screen.say(f"\n{headline(results['ntp'], results['meap'])}")
    screen.say(
        f"done in {duration(screen.seconds, digits=1)}; open {screen.coloured(str(out / 'index.html'), 'bold')}"
    )
    screen.say("continue with your own text:")
    for _, lines in next_commands(out)[:2]:
        for line in lines:
            screen.say(f"  {line}")
    return record


def make_corpus(screen: Screen, out: Path, plan: DemoSizes) -> Corpus:
    """Write the corpus."""
    with screen.stage("corpus: the Python standard library on this machine") as stage:
        path = out / "corpus" / "stdlib.jsonl"
        corpus = write_corpus(path, folder=standard_library(), byte_limit=plan.corpus_bytes)
        stage["made"] = f"{corpus.num_documents:,} modules, {corpus.num_bytes / 1e6:.1f} MB of text"
    return corpus


def make_tokenizer(screen: Screen, out: Path, corpus: Corpus, plan: DemoSizes) -> int:
    """Train the tokenizer and return the number of its pieces."""
    with screen.stage("tokenizer: byte-level BPE trained on it") as stage:
        began = screen.seconds
        vocab_size = train_tokenizer(read_texts(corpus.path), out / "tokenizer", vocab_size=plan.vocab_size)
        rate = corpus.num_bytes / 1e6 / (screen.seconds - began)
        stage["made"] = f"{vocab_size:,} pieces, {rate:.1f} MB/s"
    return vocab_size


def make_index(screen: Screen, out: Path, corpus: Corpus, prefix: Path) -> Any:
    """Index the corpus, as `meap preprocess text` does, and return the sidecar."""
    from meap_megatron.corpus.preprocess import PreprocessConfig, preprocess

    with screen.stage("index: meap preprocess text") as stage:
        began = screen.seconds
        prefix.parent.mkdir(parents=True, exist_ok=True)
        config = PreprocessConfig(inputs=[str(corpus.path)], output=str(prefix), tokenizer=str(out / "tokenizer"))
        sidecar = preprocess(config)
        rate = corpus.num_bytes / 1e6 / (screen.seconds - began)
        stage["made"] = (
            f"{sidecar.num_tokens:,} tokens in {prefix}.bin, {rate:.1f} MB/s, start of the workers included"
        )
    return sidecar


def check_index(screen: Screen, prefix: Path) -> None:
    """Check the index, as `meap verify` does.

    Raises:
        RunError: a check failed.
    """
    from meap_megatron.corpus.verify import verify

    with screen.stage("check: meap verify") as stage:
        checks = verify(prefix)
        failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
        if failed:
            raise RunError(f"{prefix} was just made and does not pass: {'; '.join(failed)}")
        stage["made"] = f"{counted(len(checks), 'check')} passed"


def draw_sample(screen: Screen, plan: DemoSizes, prefix: Path) -> tuple[list[Cell], float]:
    """Read one masked sample and return its most readable part, and the measured peak of one thread in TFLOP/s."""
    with screen.stage("sample: the first one that the MEAP arm will read") as stage:
        sample = read_sample(plan, prefix=prefix, index=SAMPLE_INDEX)
        window = readable_window(sample, DRAWN_CELLS)
        peak = one_thread_tflops()
        masked = sum(cell.masked for cell in sample)
        screen.sample(window)
        stage["made"] = (
            f"{masked} of {len(sample)} input tokens masked ({100 * masked / len(sample):.1f} %); "
            f"peak of one thread {peak * 1e3:,.0f} GFLOP/s"
        )
    return window, peak


def one_thread_tflops() -> float:
    """Return the fp32 matrix-product rate of one thread in TFLOP/s, measured before the arms load the machine."""
    import torch

    from meap_megatron.training.peak import measured_cpu_tflops

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measured_cpu_tflops(repeats=30)
    finally:
        torch.set_num_threads(threads)


def write_recipes(out: Path, plan: DemoSizes, *, prefix: Path, peak_tflops: float) -> None:
    """Write OUT/recipes/ntp.yaml and meap.yaml."""
    folder = out / "recipes"
    folder.mkdir(exist_ok=True)
    ntp = ntp_recipe(plan, prefix=prefix, save=out / "runs" / "ntp", peak_tflops=peak_tflops)
    replace_text(folder / "ntp.yaml", ntp)
    replace_text(folder / "meap.yaml", meap_recipe(save=out / "runs" / "meap"))


def train(screen: Screen, out: Path, *, threads: int) -> dict[str, Results]:
    """Run both recipes through `meap train` and return their results by arm."""
    from meap_megatron.training.metrics import read_metrics

    with screen.stage(f"train: both arms through meap train, {counted(threads, 'thread')} each") as stage:
        arms = [
            DemoArm(
                name=name,
                arguments=["train", str(out / "recipes" / f"{name}.yaml")],
                log=out / "runs" / name / "logs" / "rank-0.log",
            )
            for name in ARMS
        ]
        run_side_by_side(arms, threads=threads, show=screen.arm_line)
        results = {name: read_results(read_metrics(out / "runs" / name / "metrics.jsonl")) for name in ARMS}
        stage["made"] = (
            f"{counted(results['ntp'].last_step, 'step')}, {results['ntp'].consumed_tokens:,} tokens per arm"
        )
    return results


def validate_on_masked(screen: Screen, out: Path, *, threads: int) -> dict[str, Record]:
    """Validate the finished arms on masked inputs, and return the validation record by arm."""
    from meap_megatron.training.metrics import read_metrics

    with screen.stage("validate: both arms on masked inputs") as stage:
        # A run that is loaded at its last step has nothing to train: Megatron validates it and ends.
        arms = [
            DemoArm(
                name=name,
                arguments=[
                    "train",
                    str(out / "recipes" / f"{name}.yaml"),
                    "save=null",
                    f"load={out / 'runs' / name}",
                    f"meap_mask_ratio={MASK_RATIO}",
                    "meap_mask_validation=true",
                    f"meap_metrics={masked_metrics(out, name)}",
                    f"meap_log={out / 'runs' / name / 'logs_masked'}",
                ],
                log=out / "runs" / name / "logs_masked" / "rank-0.log",
            )
            for name in ARMS
        ]
        run_side_by_side(arms, threads=threads, show=screen.arm_line)
        found = {name: read_results(read_metrics(masked_metrics(out, name))).validations for name in ARMS}
        stage["made"] = f"{MASK_RATIO:.0%} of the input tokens masked, the same batches for both"
    return {name: records[-1] for name, records in found.items() if records}


def masked_metrics(out: Path, name: str) -> Path:
    """Return the metrics file of an arm's validation on masked inputs."""
    return out / "runs" / name / "masked_validation.jsonl"


def evaluate(screen: Screen, out: Path, plan: DemoSizes, *, record: Record, threads: int) -> list[ReportedRun]:
    """Export both arms and look for a needle with each; return both arms with their scores.

    Where the packages of the evaluation are not installed, the arms are exported only, and the record says so.
    """
    with screen.stage("export: meap convert export, both arms to Hugging Face folders") as stage:
        run_side_by_side(retrieval.exports(out), threads=threads, show=screen.arm_line)
        stage["made"] = f"{out / 'hf'}, logits of both sides compared"
    missing = retrieval.missing_packages()
    with screen.stage("evaluate: meap evaluate needle, both arms") as stage:
        if missing:
            record["retrieval"] = stage["made"] = retrieval.skipped(missing)
        else:
            run_side_by_side(retrieval.evaluations(out, plan), threads=threads, show=screen.arm_line)
            record["retrieval"] = retrieval.EXPECTED
            stage["made"] = f"{out / 'hf'}/*/evaluation/needle.json"
        return collect(retrieval.result_folders(out, evaluated=not missing))


def write_page(
    screen: Screen,
    out: Path,
    runs: list[ReportedRun],
    results: dict[str, Results],
    sample: list[Cell],
    record: Record,
) -> None:
    """Write demo.json, and index.html: the page of `meap report` with the demo's own sections."""
    record["seconds"] = screen.seconds
    replace_text(out / "demo.json", json.dumps(record, indent=1) + "\n")
    before, after = sections(sample, record, results["ntp"])
    remark = (
        f"Trained side by side on {results['ntp'].consumed_tokens:,} tokens each of Python's standard library, in "
        f"{duration(screen.seconds, digits=1)} from raw text to this page. {headline(results['ntp'], results['meap'])}. "
        f"{record['retrieval']}"
    )
    write(
        runs,
        out / "index.html",
        baseline=default_baseline(runs, None),
        title="MEAP beside next-token prediction",
        remark=remark,
        before=before,
        after=after,
    )


def available_cores() -> int:
    """Return the processors that this process may use."""
    from meap_megatron.launch.runtime import cpus_available

    return cpus_available()


def processor_name() -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return machine.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), machine.machine())
