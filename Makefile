# `make` or `make help` lists the targets. Only gpu-check needs a GPU, and beyond `venv` nothing needs
# a network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.vitkern-installed

# Each test worker gets one thread: two workers with two each would fight for two cores.
WORKERS ?= 2
PYTEST_ARGS ?=
GPU_ARGS ?=
REPORT_ARGS ?=
NUMBERS_MACHINE ?= amd-epyc-family-25-model-17-2-cores-avx512-bf16

.DEFAULT_GOAL := help
.PHONY: help venv build demo test lint format docs bench report numbers gpu-check cuda-check cuda-limits triton-check triton-limits sanitize clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) build ## the environment in .venv, with everything for tests and benchmarks

# The steps in their order: the build needs setuptools and torch in the environment itself. Kernels
# come before the install that would compile them too, because pip would not show that it takes long.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "vitkern needs Python 3.10 or newer, and PYTHON=$(PYTHON) is not:" \
		     "try make venv PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) -m venv failed: Debian and Ubuntu need the package python3-venv" >&2; \
		rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet "setuptools>=77.0.3" wheel
	$(BIN)/python -m pip install --quiet "torch>=2.10" torchvision
	@$(BIN)/python setup.py --quiet build_kernels
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

build: $(STAMP) ## the compiled library, in place: only what changed is compiled
	@$(BIN)/python setup.py --quiet build_kernels

demo: venv ## what vitkern does to a model, in a minute
	$(BIN)/python examples/demo.py

test: venv ## the whole test suite (PYTEST_ARGS="-k attention" for a part of it)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: venv ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv ## reformat the Python sources and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Strict: a link or a name that leads nowhere is an error. The theme warns of its future otherwise.
docs: venv ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: venv ## the benchmarks (use an otherwise idle machine)
	$(BIN)/python -m pytest benchmarks/ --benchmark-only $(PYTEST_ARGS)

# What was finished is kept: an interrupted run goes on where it stopped. (REPORT_ARGS=--quick)
report: venv ## ops, models and peers measured, and all results as one page, report.html; an hour
	$(BIN)/vitkern report $(REPORT_ARGS)

numbers: venv ## the picture of the README, from stored results (NUMBERS_MACHINE chooses whose)
	$(BIN)/vitkern report --from benchmarks/results --machine $(NUMBERS_MACHINE) \
		--out build/report.html --picture docs/numbers.svg

# No GPU is needed. The interpreter and the compiler cannot share a process.
triton-check: venv ## Triton kernels: interpreted, compiled for GPUs within limits, times predicted
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/triton
	$(BIN)/python -m vitkern.bench.gpu.gate --limits docs/triton-limits.json
	$(BIN)/python -m vitkern.bench.gpu.overview

triton-limits: venv ## write the compile gate's limits and tables, after a change that is meant
	$(BIN)/python -m vitkern.bench.gpu.gate --write docs
	$(BIN)/python -m vitkern.bench.gpu.overview --write docs

cuda-check: venv ## CUDA kernels: emulated on the CPU, and compiled for GPUs within limits if there is nvcc
	VITKERN_TEST_CUDA_EMULATED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/cuda_emulation
	$(BIN)/python -m vitkern.bench.gpu.cuda_gate --limits docs/cuda-limits.json

cuda-limits: venv ## write the CUDA gate's limits and table, after a change that is meant
	$(BIN)/python -m vitkern.bench.gpu.cuda_gate --write docs

# Not in .ci/run: compiling every instruction set three times as slow takes some minutes.
sanitize: venv ## CPU kernels under the address, undefined-behaviour and thread sanitizers; some minutes
	VITKERN_TEST_SANITIZERS=1 $(BIN)/python -m pytest tests/cpu_sanitizers $(PYTEST_ARGS)

# Where Python has PyTorch, Triton and pytest already, no environment is needed: in this folder
# VITKERN_BUILD_CUDA=auto python3 setup.py build_kernels, if there is nvcc, and
# python3 -m vitkern.bench.gpu.check. (GPU_ARGS="--minutes 15 --resume")
gpu-check: venv ## parity tests and benchmarks on the GPU of this machine, of CUDA kernels too if there is nvcc
	VITKERN_BUILD_CUDA=auto $(BIN)/python setup.py --quiet build_kernels
	$(BIN)/python -m vitkern.bench.gpu.check $(GPU_ARGS)

clean: ## remove what was built; the environment stays (rm -rf .venv)
	rm -rf build dist vitkern.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	rm -f vitkern/_C.abi3.so vitkern/_C.build.json vitkern/_cuda.so vitkern/_cuda.build.json
	find vitkern tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
