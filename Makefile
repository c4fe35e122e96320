# `make fit` and `make test` are all a fresh clone needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Flags for the fit, e.g. make fit ARGS="--data.path=iris"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help fit test lint types contracts tests fuzz clean

help: ## Show these lines
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

fit: $(VENV)/.installed ## Set up, train on the bundled digits and say what became of it
	$(BIN)/python -m lightning_mods.fit $(ARGS)

test: lint types contracts tests ## All checks and tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

contracts: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-cache

tests: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python tests/under_lightning.py -n 2 --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/.installed-dev ## Feed the commands what nobody expects, for an hour: MINUTES=60
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz_long.py --minutes $(or $(MINUTES),60)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 fit"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

# visdom is not in `dev`: it cannot be built with the setuptools of today, and that must not spoil the whole install.
# pip 25.3 and later read PIP_BUILD_CONSTRAINT, earlier ones PIP_CONSTRAINT.
$(VENV)/.installed-dev: $(VENV)/.installed build-constraints.txt
	$(PIP) -e '.[dev]'
	@PIP_CONSTRAINT=build-constraints.txt PIP_BUILD_CONSTRAINT=build-constraints.txt $(PIP) visdom \
	  || echo "visdom could not be built; its tests will be skipped."
	@touch $@

clean: ## Remove the virtual environment and the runs
	rm -rf $(VENV) lightning_logs
