"""The native part without Python: a fuzzer under ASan and UBSan, and instruction counts as a guard against slowness."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZE = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# Per repetition at sequence 4,096 and ratio 0.15, without AVX2. Measured with g++ 12.2 on x86-64: 50,364 for a sample,
# 18,316 unmasked, 67,145 with segments, 35,580 for positions in order, 17,573 for spans; the bounds leave a fifth for
# other compilers. A wall clock on a shared machine moves by more than that between two runs.
BOUNDS = {
    "sample": 60_000,
    "sample_unmasked": 22_000,
    "sample_segments": 80_000,
    "positions": 43_000,
    "span": 21_000,
}


def compile_cpp(name: str, program: Path, *flags: str) -> None:
    """Compile tests/native/NAME.cpp; skip where there is no compiler that can."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) on the path")
    source = Path(__file__).with_name(f"{name}.cpp")
    command = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        *flags,
        f"-I{ROOT / 'csrc'}",
        str(source),
        "-o",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip(f"{compiler} has no sanitizer libraries: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr


def test_the_fuzzer_finds_nothing_in_100_000_inputs(tmp_path):
    """`make fuzz` runs a million and more."""
    compile_cpp("fuzz", tmp_path / "fuzz", *SANITIZE)
    done = subprocess.run([tmp_path / "fuzz", "100000", "2026"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "100000 inputs, no finding\n"


def instructions(program: Path, what: str, repetitions: int) -> int:
    """Return the instructions of one run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, what, str(repetitions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed (apt-get install valgrind)")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the bounds are those of x86-64")
def test_the_native_part_needs_no_more_instructions_than_stated(tmp_path):
    compile_cpp("instructions", tmp_path / "instructions", "-O3", "-DMEAP_PLAIN")
    counted = {}
    for what in BOUNDS:
        first, second = (instructions(tmp_path / "instructions", what, repetitions) for repetitions in (10, 60))
        counted[what] = (second - first) / 50
    assert all(count > 5000 for count in counted.values()), counted  # else nothing was measured
    assert {what: count for what, count in counted.items() if count > BOUNDS[what]} == {}, counted
