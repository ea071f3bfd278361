# Targets a user types. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
P ?= laptop

.DEFAULT_GOAL := help
.PHONY: help install install-vllm run repro plan status ledger calibrate report math test pulse check format chat serve serve-vllm up profile lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

# The stamp is the last thing written: an interrupted installation is taken up again, never mistaken for a finished one.
$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; v=sys.version_info; sys.exit(0 if v>=(3,11) else f"Python 3.11 or newer is needed, found {v.major}.{v.minor}; next: make PYTHON=python3.12 ...")'
	@rm -f $(INSTALLED)
	@[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing requirements.lock into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $(INSTALLED)

# What DVC and MLflow need once per clone: versions as files, the tracking database, a DVC link to git.
install: $(INSTALLED)  ## make .venv from requirements.lock
	@$(BIN)/python -m tasks.environment
	@[ -f mlflow.db ] || [ -n "$$MLFLOW_TRACKING_URI" ] || { echo "creating mlflow.db"; $(BIN)/python -m tasks._tracking init 2>/dev/null; }

run: install  ## raw text to a chat reply: all stages that are stale, then the table and a conversation
	@$(BIN)/python -m flows run

repro: install  ## the same with DVC alone
	@$(BIN)/dvc repro

plan: install  ## what would run, and why
	@$(BIN)/python -m flows plan

status: install  ## every stage: state, seconds predicted and measured, size, key
	@$(BIN)/python -m flows status

ledger: install  ## what was forecast beside what was measured, over all runs
	@$(BIN)/python -m flows ledger

calibrate: install  ## learn this machine's constants from the ledger (every finished pipeline does it, too)
	@$(BIN)/python -m flows calibrate

report: install  ## reports/run.html: plan, forecasts, measurements, verdict, plots
	@$(BIN)/python -m flows report

math: install  ## render pipeline_math/00..10 from the formulas and the recorded runs
	@$(BIN)/python -m pipeline_math.documents

test: install  ## the whole test suite
	@$(BIN)/python -m pytest

pulse: install  ## the whole pipeline, tiny, in a scratch folder
	@$(BIN)/python -m pytest tests/pulse -v

check: install  ## format, lint, types, contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/contracts

format: install  ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

chat: install  ## talk to the exported model in the terminal
	@$(BIN)/python -m tasks.chat.client --model artifacts/export

serve: install  ## chat page and OpenAI-compatible API on loopback
	@$(BIN)/python -m flows serve --model artifacts/export

install-vllm: install  ## vLLM in an environment of its own (.venv-vllm)
	@bash docker/install_vllm.sh .venv-vllm

serve-vllm: install  ## the same page, answered by vLLM
	@$(BIN)/python -m flows serve --model artifacts/export --backend vllm

up: install  ## Prefect UI and MLflow UI on loopback
	@$(BIN)/python -m flows up

profile: install  ## install profiles/P.yaml as params.yaml: make profile P=rtx4090-24h
	@[ -f profiles/$(P).yaml ] || { echo "no profile '$(P)'; allowed: $$(ls profiles | sed 's/.yaml//' | tr '\n' ' ')"; exit 1; }
	@cp profiles/$(P).yaml params.yaml
	@$(BIN)/python -m flows plan

lock:  ## rewrite requirements.lock from requirements.in (in a fresh environment)
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet -r requirements.in
	@{ echo '# Every package of the pipeline'"'"'s environment, by version. Made by `make lock` from requirements.in.'; \
	   .venv-lock/bin/python -m pip freeze | sed -E 's/\+[a-z0-9.]+$$//'; } > requirements.lock
	@rm -rf .venv-lock

clean:  ## remove scratch (work/); finished stages and the cache stay
	@rm -rf work
