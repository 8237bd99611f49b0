"""What preprocessing costs: gigatoken's encoding alone, `meap preprocess text` as a user runs it, Megatron's own script.

Three tables:

1. Speed on real text: the Python files, documentation and licences of this installation, one JSON line each, with the 32,000
   piece SentencePiece tokenizer of Mistral 7B (in the package mistral-common). gigatoken gets the texts in memory and only
   encodes; ours and Megatron's start from nothing and end with a dataset. Two threads or two workers each.
2. Peak memory on generated text, small and large: the words of the real text in random order, and one word in twenty new.
   The peak is the sum over all processes of each one's `VmHWM`.
3. `meap verify` against reading the files, and against reading and hashing them, all in the page cache.

Contestants take turns; figures are medians over rounds. Other programs take their share of the clock, so CPU seconds of all
processes of a contestant are beside it. Megatron's script is not part of its package:

    git clone https://github.com/NVIDIA/Megatron-LM
    python benchmarks/preprocess.py --megatron Megatron-LM/tools/preprocess_data.py

Without the option that row is left out. The last line is one JSON document.

    python benchmarks/preprocess.py                 needs 2 GB of disk
    python benchmarks/preprocess.py --large 1000    as in the documentation, 5 GB
    python benchmarks/preprocess.py --quick         for tests: the figures mean nothing
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timing

MEGABYTE = 10**6
WORKERS = 2
SUFFIXES = {".py", ".md", ".rst", ".txt"}
OURS, MEGATRON = "meap preprocess text", "Megatron's preprocess_data.py"
RAW = {
    "gigatoken, 64 MiB per call": "backend.encode_batch(texts, parallel=True)",
    "gigatoken, one thread, by document": "for text in texts: backend.encode(text)",
}
RAW_CODE = """
import json, sys, time
from gigatoken.gigatoken_rs import load_hf_json
from meap_megatron.corpus.encode import GigatokenEncoder
from meap_megatron.tokenizer.load import load_tokenizer
backend = GigatokenEncoder(load_tokenizer(sys.argv[1]).definition)._backend
wall = cpu = 0.0
with open(sys.argv[2], "rb") as stream:
    while lines := stream.readlines(2**26):
        texts = [json.loads(line)["text"].encode() for line in lines]
        wall -= time.perf_counter()
        cpu -= time.process_time()
        {work}
        wall += time.perf_counter()
        cpu += time.process_time()
print(json.dumps([wall, cpu]))
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds by the clock, CPU seconds of all processes, and the sum of their peak memories in bytes."""

    wall: float
    cpu: float
    peak: int = 0


def real_texts(num_bytes: int) -> Iterator[str]:
    """Give files of the standard library and of the installed packages until they hold so many bytes."""
    packages = Path(sysconfig.get_path("purelib"))
    roots = (Path(sysconfig.get_path("stdlib")), packages)
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix not in SUFFIXES or (root is not packages and packages in path.parents):
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
            yield text
            num_bytes -= len(text.encode())
            if num_bytes <= 0:
                return


def generated_texts(words: list[str], num_bytes: int) -> Iterator[str]:
    """Give documents of about 4 KB: known words in random order, and one in twenty that never comes again."""
    rng = np.random.default_rng(1)
    vocabulary = np.array(words, dtype=object)
    new = 0
    while num_bytes > 0:
        for chosen in vocabulary[rng.integers(0, len(vocabulary), size=(256, 600))]:
            for place in range(0, 600, 20):
                new += 1
                chosen[place] = f"w{new * 2654435761 % 2**32:x}"
            text = " ".join(chosen)
            yield text
            num_bytes -= len(text.encode())
            if num_bytes <= 0:
                return


def write_lines(path: Path, texts: Iterable[str]) -> int:
    """Write one JSON object per text; return the bytes of the texts."""
    size = 0
    with path.open("w", encoding="utf-8") as stream:
        for text in texts:
            if text:
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size += len(text.encode())
    return size


def measured(command: list[str]) -> Cost:
    """Run a command with all its processes."""
    began = time.perf_counter()
    peaks: dict[int, int] = {}
    environment = {**os.environ, "RAYON_NUM_THREADS": str(WORKERS)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    before = os.times()
    while process.poll() is None:
        for pid in family(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), high_water(pid))
        time.sleep(0.02)
    wall = time.perf_counter() - began
    assert process.stderr is not None
    said = process.stderr.read().decode()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{said}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall=wall, cpu=cpu, peak=sum(peaks.values()))


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(other for child in children for other in family(int(child)))]


def high_water(pid: int) -> int:
    """Return the peak resident memory of a process in bytes, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def raw(work: str, tokenizer: Path, source: Path) -> Cost:
    """Encode texts that are in memory, in a process of its own."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(WORKERS)}
    command = [sys.executable, "-c", RAW_CODE.format(work=work), str(tokenizer), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wall, cpu = json.loads(done.stdout.splitlines()[-1])
    return Cost(wall=wall, cpu=cpu)


def ours(tokenizer: Path, source: Path, prefix: Path) -> Cost:
    """Preprocess, from the start of the interpreter to its end."""
    argv = ["-t", str(tokenizer), "-o", str(prefix), "--workers", str(WORKERS), "--overwrite"]
    return measured([sys.executable, "-m", "meap_megatron.cli.main", "preprocess", "text", str(source), *argv])


def megatron(script: Path, tokenizer: Path, source: Path, prefix: Path) -> Cost:
    """Run Megatron's script with its own SentencePiece tokenizer."""
    argv = ["--tokenizer-type", "Llama2Tokenizer", "--tokenizer-model", str(tokenizer), "--append-eod"]
    argv += ["--input", str(source), "--output-prefix", str(prefix), "--workers", str(WORKERS)]
    return measured([sys.executable, str(script), *argv])


def read_files(paths: list[Path]) -> None:
    """Read files into one buffer."""
    block = bytearray(2**22)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(block):
                pass


def hash_files(paths: list[Path]) -> None:
    """Read and hash files: what the content hash in the sidecar costs at least."""
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            hashlib.file_digest(stream, "sha256")


def verify(prefix: Path) -> None:
    """Check a dataset in this process, as `meap verify` does after its start."""
    from meap_megatron.corpus.verify import verify as check

    failed = [line for line in check(prefix) if not line.passed]
    assert not failed, failed


def median(costs: list[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        wall=statistics.median(cost.wall for cost in costs),
        cpu=statistics.median(cost.cpu for cost in costs),
        peak=int(statistics.median(cost.peak for cost in costs)),
    )


def speed(folder: Path, tokenizer: Path, source: Path, *, rounds: int, script: Path | None) -> dict[str, Cost]:
    """Let the contestants take turns; Megatron's script, many times slower, takes part in the first round only."""
    costs: dict[str, list[Cost]] = {}
    for round_ in range(rounds):
        for name, work in RAW.items():
            costs.setdefault(name, []).append(raw(work, tokenizer, source))
        costs.setdefault(OURS, []).append(ours(tokenizer, source, folder / "real"))
        if script is not None and round_ == 0:
            costs[MEGATRON] = [megatron(script, tokenizer, source, folder / "megatron")]
    return {name: median(found) for name, found in costs.items()}


def target_ratios(found: dict[str, Cost]) -> dict[str, float]:
    """Return the ratios that have a target: 0.8 of the raw encoding, 5 times Megatron's script."""
    mine = found[OURS]
    call, by_document = (found[name] for name in RAW)
    ratios = {
        "ours_over_raw_cpu": call.cpu / mine.cpu,
        "ours_over_raw_one_thread_cpu": by_document.cpu / mine.cpu,
        "ours_over_raw_clock": call.wall / mine.wall,
    }
    if MEGATRON in found:
        ratios["ours_over_megatron_cpu"] = found[MEGATRON].cpu / mine.cpu
        ratios["ours_over_megatron_clock"] = found[MEGATRON].wall / mine.wall
    return ratios


def print_speed(title: str, found: dict[str, Cost], num_bytes: int) -> None:
    """Print one table of speeds."""
    size = num_bytes / MEGABYTE
    rows = (
        (name, f"{cost.wall:.2f}", f"{size / cost.wall:.1f}", f"{cost.cpu:.2f}", f"{size / cost.cpu:.1f}")
        + (f"{cost.peak / MEGABYTE:.0f}" if cost.peak else "",)
        for name, cost in found.items()
    )
    timing.print_table((f"{title}, {size:,.0f} MB", "seconds", "MB/s", "CPU s", "MB per CPU s", "peak MB"), *rows)


def main() -> int:
    """Run, print the tables, and the JSON document last."""
    parser = timing.arguments(__doc__)
    parser.add_argument("--megabytes", type=float, default=110, help="of real text (110)")
    parser.add_argument("--large", type=float, default=300, help="megabytes of the larger generated text (300)")
    parser.add_argument("--rounds", type=int, default=3, help="of the first table (3)")
    parser.add_argument(
        "--megatron", type=Path, default=None, help="Megatron-LM's tools/preprocess_data.py (left out)"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time being")
    args = parser.parse_args()
    import mistral_common

    tokenizer = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    megabytes, small, large, rounds = args.megabytes, min(100, args.large / 3), args.large, args.rounds
    if args.quick:
        megabytes, small, large, rounds = 1, 0.5, 1, 1

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        num_bytes = write_lines(folder / "real.jsonl", real_texts(int(megabytes * MEGABYTE)))
        found = speed(folder, tokenizer, folder / "real.jsonl", rounds=rounds, script=args.megatron)
        print_speed("real text", found, num_bytes)
        ratios = target_ratios(found)

        words = [word for text in real_texts(int(min(megabytes, 10) * MEGABYTE)) for word in text.split()]
        generated: dict[str, tuple[int, dict[str, Cost]]] = {}
        for which, size in (("small", small), ("large", large)):
            source, prefix = folder / f"{which}.jsonl", folder / which
            size_bytes = write_lines(source, generated_texts(words, int(size * MEGABYTE)))
            costs = {name: raw(work, tokenizer, source) for name, work in RAW.items()}
            costs[OURS] = ours(tokenizer, source, prefix)
            generated[which] = size_bytes, costs
            print_speed("generated text", costs, size_bytes)
            source.unlink()
        (few, small_costs), (many, large_costs) = generated.values()
        ratios |= {f"large_{name}": ratio for name, ratio in target_ratios(large_costs).items()}
        ratios["memory_large_over_small"] = large_costs[OURS].peak / small_costs[OURS].peak

        prefix = folder / "large"
        pair = [prefix.with_suffix(suffix) for suffix in (".bin", ".idx")]
        megabytes = sum(path.stat().st_size for path in pair) / MEGABYTE
        contestants = {
            "read": lambda i: read_files(pair),
            "read and hash": lambda i: hash_files(pair),
            "meap verify": lambda i: verify(prefix),
        }
        clock = timing.interleaved(contestants, rounds=1 if args.quick else 7, calls=1)
    seconds = {name: found.median / 1e6 for name, found in clock.items()}
    timing.print_table(
        (f"a dataset of {megabytes:,.0f} MB", "seconds", "MB/s"),
        *((name, f"{value:.2f}", f"{megabytes / value:,.0f}") for name, value in seconds.items()),
    )
    ratios["verify_over_hash"] = seconds["read and hash"] / seconds["meap verify"]
    return timing.publish(
        "preprocess",
        quick=args.quick,
        ratios=ratios,
        packages=("gigatoken", "sentencepiece", "tokenizers", "numpy", "megatron-core"),
        lower_is_better=["memory_large_over_small"],
        workers=WORKERS,
        rounds=rounds,
        real={"bytes": num_bytes, "costs": {name: vars(cost) for name, cost in found.items()}},
        generated={
            which: {"bytes": size, "costs": {name: vars(cost) for name, cost in costs.items()}}
            for which, (size, costs) in generated.items()
        },
        verify={"megabytes": megabytes, "seconds": {name: round(value, 4) for name, value in seconds.items()}},
    )


if __name__ == "__main__":
    sys.exit(main())
