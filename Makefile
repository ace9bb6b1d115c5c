# Two commands are all that a fresh machine needs: `make demo` and `make test`. Python 3.11 or newer is all they expect.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
SAMPLE_TEXTS := $(addprefix --prompts ,$(wildcard samples/prompts/*.json)) $(addprefix --text ,$(wildcard samples/corpus/*.txt))

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-processors test-lowest test-quantised check lint test-models bench gpu-check bench-peers faults real-model screens soak dying-example sample-reports clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## .venv with nfinspect and everything it is tested with

# Brought up to date whenever what is to be installed changes; the stamp comes last, so that half an
# installation is done again.
$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard store/nfinspect_store/_*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nfinspect needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "installing into $(VENV): a few minutes the first time"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## capture the sample model and open the app on it
	@$(BIN)/nfinspect demo

test: $(STAMP) ## the tests but the slow ones, a file at a time on each of two processors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(STAMP) ## the slow tests: kills, whole reports, memory, benchmarks in small, trainings in several processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-processors: $(STAMP) ## the numeric tests as other processors round, half an hour; SHORT=1 a few of them
	@$(BIN)/python tests/processors.py $(if $(SHORT),--short)

test-quantised: ## the tests of quantised weights, with the packages that read them: an environment of its own
	$(PYTHON) -m venv build/quantised
	build/quantised/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,quant]'
	OMP_NUM_THREADS=1 build/quantised/bin/python -m pytest tests/unit/models/test_quantised.py tests/unit/experiments/test_projection_weights.py

test-lowest: ## the tests with the lowest versions that pyproject.toml allows; TORCH=2.13.0 for another torch than the lowest
	$(PYTHON) -m venv --clear build/lowest
	$(PYTHON) tests/lowest.py $(if $(TORCH),torch==$(TORCH)) > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -c build/lowest.txt -e '.[dev]'
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -n 2 --dist loadfile

lint: $(STAMP) ## ruff, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test test-slow ## the gate: lint and all tests

bench: $(STAMP) ## the measurements of tests/benchmarks, and docs/benchmarks.md from them: an hour on a quiet machine, 20 GB of disk
	@$(BIN)/python -m tests.benchmarks --page docs/benchmarks.md

gpu-check: $(STAMP) ## captures on a GPU against the CPU, and their cost: six minutes; ARGS="--device cpu" in small, ARGS=--wheels what to carry
	@$(BIN)/python -m tests.gpu.gpu_check $(ARGS)

bench-peers: $(PEERS)/.installed $(PEERS)-sae/.installed ## nfinspect beside its peers, and docs/benchmarks.md from it: half an hour on a quiet machine
	@$(PEERS)/bin/python -m tests.benchmarks.peers --page docs/benchmarks.md

# Of its own: the peers need packages that nothing else here does.
$(PEERS)/.installed: pyproject.toml setup.py constraints.txt tests/benchmarks/peers/constraints.txt $(wildcard store/nfinspect_store/_*.[ch])
	@$(PEERS)/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS); }
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-c tests/benchmarks/peers/constraints.txt -e . transformer-lens nnsight interp-engine h5py zarr
	@touch $@

$(PEERS)-sae/.installed: constraints.txt tests/benchmarks/peers/constraints-sae.txt
	@$(PEERS)-sae/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf $(PEERS)-sae && $(PYTHON) -m venv $(PEERS)-sae; }
	$(PEERS)-sae/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-c tests/benchmarks/peers/constraints-sae.txt sae-lens
	@touch $@

test-models: $(STAMP) ## every decoder family of transformers against plain hooks, and docs/models.md from it: half an hour
	OMP_NUM_THREADS=1 $(BIN)/python tests/sweep/sweep.py

faults: $(STAMP) ## crashes, full disks, hang-ups, a backend that fails 50 times: half an hour
	NFINSPECT_EVERY_HOSTILE_FILE=1 NFINSPECT_BACKEND_FAILURES=50 $(BIN)/python -m pytest tests/faults

real-model: $(STAMP) ## a real model of 135 M parameters, downloaded (93 MB): every value against plain hooks, bytes per value
	OMP_NUM_THREADS=2 $(BIN)/python tests/real/real_model.py

screens: $(STAMP) ## pictures of every screen of the app into docs/screens, five minutes
	@$(BIN)/python docs/make_screens.py docs/screens

soak: $(STAMP) ## thousands of keys mashed into every pane of the app, with seeds, a quarter of an hour
	NFINSPECT_SOAK_BURSTS=5000 $(BIN)/python -m pytest tests/app/test_keys_in_haste.py -k mashed

dying-example: $(STAMP) ## ReLU neurons that die and are healed: docs/dying-relu
	$(BIN)/python samples/dying_relu.py --out docs/dying-relu

sample-reports: $(STAMP) ## build/reports: the report of both sample models on the project's own texts, a quarter of an hour
	@for model in gpt2-relu mamba; do \
		$(BIN)/nfinspect capture samples/$$model $(SAMPLE_TEXTS) --context 64 --run $$model --store build/reports/store && \
		$(BIN)/nfinspect report $$model --with-model --store build/reports/store --out build/reports/$$model || exit 1; \
	done

clean: ## remove what make made
	rm -rf $(VENV) $(PEERS) $(PEERS)-sae build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
