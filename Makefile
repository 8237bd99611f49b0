# Each target is complete on its own: the environment is made first if it is not there.
#   make demo    the main job, end to end, on this machine      make test   all tests
#   make lint    style and types                                make bench  all benchmarks

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

.PHONY: demo test lint format bench clean

demo: $(STAMP)
	$(BIN)/meap demo $(DEMO_FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.hpp csrc/*.cpp

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.hpp csrc/*.cpp

bench: $(STAMP)
	for script in benchmarks/*.py; do $(BIN)/python $$script $(BENCH_FLAGS) || exit 1; done

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
ifeq ($(strip $(PYTHON)),)
	@echo "make: Python 3.12 or newer is needed and none was found (tried python3.12, python3, python3.13)." >&2
	@echo "      Debian/Ubuntu: apt-get install python3.12-venv    pyenv: pyenv install 3.12    or: make PYTHON=/path/to/python3.12" >&2
	@exit 2
endif
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	    { echo "make: a C++17 compiler is needed; Debian/Ubuntu: apt-get install g++" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name '*.so' -path './meap_megatron/*' -delete
