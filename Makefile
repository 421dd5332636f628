# Adaptive LR Toolkit. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
LAUNCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
# Not `nvidia-smi ... | wc -l` alone: where there is none, make would print what a failed pipe has said.
GPUS := $(shell { nvidia-smi -L 2>/dev/null || true; } | wc -l)
PROCESSES ?= $(if $(filter-out 0,$(GPUS)),$(GPUS),2)
# One process needs no launcher, and Accelerate's does not pass signals on to one.
LAUNCHER = $(if $(filter cpu gpu,$(LAUNCH)),$(ONE_PROCESS),$(SEVERAL))
ONE_PROCESS = $(if $(filter cpu,$(LAUNCH)),ACCELERATE_USE_CPU=true) $(BIN)/python
SEVERAL = $(BIN)/accelerate launch --quiet --config_file launch_configs/$(LAUNCH).yaml \
	$(if $(filter ddp fsdp zero%,$(LAUNCH)),--num_processes $(PROCESSES))
TARGET ?= digits/vit_micro
SCHEDULE ?= cosine
SEED ?= 0
STUDY ?= demo
ARGS ?=
# Trackers that runs are mirrored to, several in quotes; WANDB=online uploads to W&B.
WANDB ?=
LOG_WITH ?= $(if $(filter online,$(WANDB)),wandb)
MIRRORED = $(if $(LOG_WITH),--log-with $(LOG_WITH))
BASE ?= HEAD
ALLOW ?=
PAIRS ?= cifar10-resnet18 cifar10-efficientnet_b0 imdb-bert-base imdb-lstm-glove \
	squad_v2-bert-large squad_v2-roberta-base
ADAPTIVE ?= adaptive
PYTEST = $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist worksteal
# One process takes all cores unless told otherwise; the launcher would say at length that it guessed.
OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export OMP_NUM_THREADS
# What torchrun, which starts several processes, passes on, and how long it then waits for a
# checkpoint: by default neither USR1 nor USR2, and 30 s.
PET_SIGNALS_TO_HANDLE ?= SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2
TORCH_ELASTIC_SHUTDOWN_TIMEOUT ?= 300
export PET_SIGNALS_TO_HANDLE TORCH_ELASTIC_SHUTDOWN_TIMEOUT

.PHONY: help setup demo test test-fast test-full check train study report bench bench-text loss-compare tunnel audit docs clean baselines adaptive compare \
	cifar10-resnet18 cifar10-efficientnet_b0 imdb-bert-base imdb-lstm-glove squad_v2-bert-large \
	squad_v2-roberta-base

help: ## List the targets and their variables
	@awk -F':.*## ' '/^[a-z0-9_-]+:.*## / {printf "  make %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "variables: TARGET=$(TARGET) SCHEDULE=$(SCHEDULE) LAUNCH=$(LAUNCH) SEED=$(SEED) STUDY=$(STUDY) LOG_WITH=$(LOG_WITH) WANDB=$(WANDB) ARGS='flags'"

setup: .venv/.ready ## Make the environment in .venv (needs Python 3.11 or newer)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make setup PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "installing into .venv: that takes a few minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed,dev,lightning,peft,rivals,slurm,trackers]'
	$(BIN)/python -c 'from toolkit.vision_compat import main; main()'
	touch $@

demo: setup ## Five schedules on handwritten digits: a few minutes, ends with a report
	$(LAUNCHER) -m toolkit.sweep demo $(MIRRORED)
	$(BIN)/python -m toolkit.report runs/demo

train: setup ## Train TARGET under SCHEDULE with LAUNCH and SEED
	$(LAUNCHER) -m toolkit.train $(TARGET) --seed $(SEED) schedule:$(SCHEDULE) $(MIRRORED) $(ARGS)

# Each pair: make PAIR SCHEDULE=... LAUNCH=... SEED=... ARGS='--recipe.epochs 2'
cifar10-resnet18: TARGET = cifar10/resnet18
cifar10-resnet18: train ## ResNet-18 on CIFAR-10

cifar10-efficientnet_b0: TARGET = cifar10/efficientnet_b0
cifar10-efficientnet_b0: train ## EfficientNet-B0 on CIFAR-10

imdb-bert-base: TARGET = imdb/bert-base-uncased
imdb-bert-base: train ## BERT-base on IMDB

imdb-lstm-glove: TARGET = imdb/lstm-glove
imdb-lstm-glove: train ## LSTM over GloVe vectors on IMDB

squad_v2-bert-large: TARGET = squad_v2/bert-large-uncased-whole-word-masking-finetuned-squad
squad_v2-bert-large: LAUNCH = zero2
squad_v2-bert-large: train ## BERT-large on SQuAD v2, under DeepSpeed (LAUNCH=zero2)

squad_v2-roberta-base: TARGET = squad_v2/roberta-base
squad_v2-roberta-base: train ## RoBERTa-base on SQuAD v2

# Runs of the whole table are in runs/table; a run that is finished is not made again.
table = set -e; for pair in $(PAIRS); do for schedule in $(1); do \
	$(MAKE) --no-print-directory $$pair SCHEDULE=$$schedule ARGS="--study table $(ARGS)"; done; done

baselines: setup ## All PAIRS under constant, step and cosine
	@$(call table,constant step cosine)

adaptive: setup ## All PAIRS under the adaptive schedule
	@$(call table,$(ADAPTIVE))

compare: baselines adaptive ## The whole table, and its report
	$(BIN)/python -m toolkit.report runs/table

study: setup ## Run STUDY, or go on with it
	$(LAUNCHER) -m toolkit.sweep $(STUDY) $(MIRRORED)

report: setup ## Write the report of STUDY
	$(BIN)/python -m toolkit.report runs/$(STUDY)

check: setup ## Lint, format, types (of tests, too), layers: under 30 s
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: setup ## All tests but the long matrices, a worker for each core up to 8
	$(PYTEST) -m 'not full' $(ARGS)

test-full: setup ## All tests, with every case of every matrix
	$(PYTEST) $(ARGS)

# Tests with the marker "fast", which tests/conftest.py gives to every test in one process that is
# marked neither long nor slow, measures no time and needs neither the real data nor a GPU.
test-fast: setup ## The pure and the short tests in one process, while one works: under 60 s
	$(PYTEST) -m fast $(ARGS)

bench: setup ## What the loop costs beside a bare loop, and what its rivals cost: under 20 minutes
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/overhead.py $(ARGS)

# What is done is kept; a word of what is wrong comes here, before it goes on in the background.
bench-text: setup ## The same on IMDB and SQuAD v2, in the background; interrupted, it goes on
	$(BIN)/python benchmarks/overhead.py --check IMDB "SQuAD v2" $(ARGS)
	mkdir -p runs/bench-text
	nohup $(BIN)/python benchmarks/overhead.py --keep runs/bench-text IMDB "SQuAD v2" $(ARGS) \
		> runs/bench-text/log 2>&1 &
	@echo "it goes on in the background, and ends with its tables in runs/bench-text/log"

loss-compare: setup ## Are losses, decisions and weights those of commit BASE, but for the fields ALLOW?
	$(BIN)/python benchmarks/loss_compare.py $(BASE) $(if $(ALLOW),--allow $(ALLOW))

tunnel: setup ## What adaptive and its rivals lose on six small workloads, from the records
	$(BIN)/python benchmarks/tunnel.py table

# Not a part of check: it asks a database of the network, whose answer changes from day to day.
audit: setup ## Do the pinned packages have known vulnerabilities? Needs the network
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[audit]'
	$(BIN)/pip-audit --strict --progress-spinner off --no-deps --disable-pip -r constraints.txt

docs: setup ## The documentation as a site, in site/
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove caches and build leftovers; runs and the environment stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find toolkit tasks tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
