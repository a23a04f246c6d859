# `make help` lists the targets. Each does its own set-up, in .venv, with plain pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where there is an NVIDIA driver, what compiles the CUDA kernels comes along.
DRIVER := $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi)
EXTRA := $(if $(strip $(DRIVER)),[cuda])

.DEFAULT_GOAL := help
.PHONY: help install demo live evidence check quick suite test test-slow coverage torture busy lint bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

# What an interrupted install leaves can break pip, so the next one begins anew.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@if [ -e $(VENV)/unfinished ]; then rm -rf $(VENV); fi
	$(PYTHON) -m venv $(VENV) && touch $(VENV)/unfinished
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.$(EXTRA)'
	@mv $(VENV)/unfinished $@

$(VENV)/installed-dev: $(VENV)/installed
	@if [ -e $(VENV)/unfinished ]; then rm -rf $(VENV); $(MAKE) $(VENV)/installed; fi
	@touch $(VENV)/unfinished
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@mv $(VENV)/unfinished $@

install: $(VENV)/installed ## make .venv with everything a run needs

demo: $(VENV)/installed ## train two models, measure them, write runs/demo/report/; about 5 minutes
	$(BIN)/python scripts/demo.py

LIVE := model.size=1m data.length=256 data.batch_size=2 data.val_fraction=0.01 trainer.max_steps=120 optim.warmup_steps=10
live: $(VENV)/installed ## two small models side by side in a page; the first time, they are trained
	$(BIN)/python scripts/train.py name=live-rwkv7 model=rwkv7 $(LIVE)
	$(BIN)/python scripts/train.py name=live-transformer model=transformer $(LIVE)
	$(BIN)/python scripts/serve.py run=[live-rwkv7,live-transformer]

evidence: $(VENV)/installed ## train every model on the tasks that tell them apart, write runs/evidence/; 90 minutes at most
	$(BIN)/python scripts/evidence.py

test: $(VENV)/installed-dev ## lint, types and the whole test-suite (without the slow ones), side by side
	@$(MAKE) --no-print-directory --jobs 2 lint suite

# Three processes on two cores: a quarter of the time, a test waits for a server, a signal or a file.
# A process keeps its neighbouring tests, which share what they prepare, until the others have none left.
suite: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 3 --dist worksteal --durations=15

# Tests that take milliseconds each; of these folders, some files train, fork or draw hundreds of samples.
QUICK := tests/core tests/data tests/models/layers tests/probes/analysis tests/test_house.py tests/test_prose.py
NOT_QUICK := tests/core/test_stop_signals.py tests/data/test_store.py tests/data/test_rwkv_world_tokenizer.py \
	tests/probes/analysis/test_comparability.py tests/probes/analysis/test_estimators.py \
	tests/probes/analysis/test_ratios.py tests/probes/analysis/test_scaling_laws.py \
	tests/probes/analysis/test_scaling_study.py tests/probes/analysis/test_shape_fit.py

check: $(VENV)/installed-dev ## lint, types and the quick tests, side by side; about a minute
	@$(MAKE) --no-print-directory --jobs 2 lint quick

quick: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'not slow' $(QUICK) $(addprefix --ignore=,$(NOT_QUICK))

coverage: $(VENV)/installed-dev ## the test-suite, and which lines of each file it runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 3 --dist worksteal --cov --cov-report=term:skip-covered

test-slow: $(VENV)/installed-dev ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

torture: $(VENV)/installed-dev ## kill, damage and mislead trainings; count what is lost
	$(BIN)/python -m tests.faults.torture runs=100

busy: $(VENV)/installed-dev ## sweeps beside busy processes: do their verdicts hold? hours
	$(BIN)/python benchmarks/busy.py -m model=rwkv4,transformer

lint: $(VENV)/installed-dev ## ruff (format and lint) and mypy
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

bench: $(VENV)/installed-dev ## time kernels, the training loop and waiting threads on this machine
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/openmp_waiting.py
	$(BIN)/python benchmarks/elementwise.py

clean: ## delete .venv and prepared corpora; runs/ stays
	rm -rf $(VENV) .cache
