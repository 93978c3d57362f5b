# What people type. Python 3.11 to 3.13; another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo up test test-slow test-all train-real check format lock secrets clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.runtime ## Run everything with a demo model and a demo archive; ARGS=--exit stops after the summary
	$(BIN)/ctbatch demo $(ARGS)

up: $(VENV)/.runtime ## Run everything on this machine; ARGS="--port 9000"
	$(BIN)/ctbatch up $(ARGS)

test: $(VENV)/.dev ## Run the fast tests, a process a core
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) $(ARGS)
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev ## Run the tests that take minutes; those that start and kill a whole ctbatch one by one
	@failed=0; set -x; \
	$(BIN)/python -m pytest -m "slow and not alone" $(SIDE_BY_SIDE) $(ARGS) || [ $$? = 5 ] || failed=1; \
	$(BIN)/python -m pytest -m "slow and alone" $(ARGS) || [ $$? = 5 ] || failed=1; \
	exit $$failed

test-all: $(VENV)/.dev ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

train-real: $(VENV)/.runtime ## Train from scratch on labelled slices, an hour or more: DATA=FOLDER PRESET=scratch
	$(BIN)/ctbatch bench real-training $(DATA) --preset $(PRESET) $(ARGS)
PRESET := scratch

check: $(VENV)/.dev ## Lint, check formats, types, and which package imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/cli/test_import_rule.py

format: $(VENV)/.dev ## Rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/bin/python ## Write .lock/ from pyproject.toml; ARGS=--upgrade takes the newest versions
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile pyproject.toml $(LOCK) $(ARGS) -o .lock/runtime.txt
	$(BIN)/uv pip compile pyproject.toml --group dev -c .lock/runtime.txt $(LOCK) $(ARGS) -o .lock/dev.txt
	echo 'tensorflow[and-cuda]' | $(BIN)/uv pip compile - -c .lock/runtime.txt $(LOCK) $(ARGS) -o .lock/gpu.txt
LOCK := --universal --python-version 3.11 --generate-hashes --no-header --quiet

secrets: ## Make the secrets that docker-compose.yml reads, in .secrets/
	@sh .docker/make-secrets

clean: ## Remove what make made
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: a second call installs nothing.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		"Python 3.11, 3.12 or 3.13 is needed; this is %d.%d. Name one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

# The locks are complete: --no-deps, for an older pip asks for an unpinned version of what is wanted with an extra.
$(VENV)/.runtime: .lock/runtime.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --no-deps --require-hashes -r .lock/runtime.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: .lock/dev.txt $(VENV)/.runtime
	$(PIP) install --quiet --no-deps --require-hashes -r .lock/dev.txt
	@touch $@
