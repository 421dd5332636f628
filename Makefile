# Adaptive LR Toolkit. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
LAUNCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
LAUNCHER = $(BIN)/accelerate launch --quiet --config_file launch_configs/$(LAUNCH).yaml
TARGET ?= digits/vit_micro
SCHEDULE ?= cosine
SEED ?= 0
STUDY ?= demo
ARGS ?=
# One process takes all cores unless told otherwise; the launcher would say at length that it guessed.
OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export OMP_NUM_THREADS

.PHONY: help setup demo test check train study report bench docs clean

help: ## List the targets and their variables
	@awk -F':.*## ' '/^[a-z0-9_-]+:.*## / {printf "  make %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "variables: TARGET=$(TARGET) SCHEDULE=$(SCHEDULE) LAUNCH=$(LAUNCH) SEED=$(SEED) STUDY=$(STUDY) ARGS='flags'"

setup: .venv/.ready ## Make the environment in .venv (needs Python 3.11 or newer)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make setup PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed,dev,report]'
	$(BIN)/python -m toolkit.vision_compat
	touch $@

demo: setup ## Four schedules on handwritten digits: under 4 minutes, ends with a report
	$(LAUNCHER) -m toolkit.sweep demo
	$(BIN)/python -m toolkit.report runs/demo

train: setup ## Train TARGET under SCHEDULE with LAUNCH and SEED
	$(LAUNCHER) -m toolkit.train $(TARGET) --seed $(SEED) schedule:$(SCHEDULE) $(ARGS)

cifar10-resnet18: TARGET = cifar10/resnet18
cifar10-resnet18: train ## ResNet-18 on CIFAR-10

cifar10-efficientnet_b0: TARGET = cifar10/efficientnet_b0
cifar10-efficientnet_b0: train ## EfficientNet-B0 on CIFAR-10

study: setup ## Run STUDY, or go on with it
	$(LAUNCHER) -m toolkit.sweep $(STUDY)

report: setup ## Write the report of STUDY
	$(BIN)/python -m toolkit.report runs/$(STUDY)

check: setup ## Lint, format, types, layers: under 30 s
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: setup ## All tests
	$(BIN)/pytest $(ARGS)

bench: setup ## The cost of the loop beside bare PyTorch
	$(BIN)/python benchmarks/throughput.py

docs: setup ## The API's documentation, in site/
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/pdoc --docformat google --output-directory site toolkit

clean: ## Remove caches and build leftovers; runs and the environment stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find toolkit tasks tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
