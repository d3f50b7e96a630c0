# What a person does with this project; `make` alone prints the list.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
HOST ?= 127.0.0.1
PORT ?= 8080
ARGS ?=

BIN := .venv/bin
SERVE := .venv/.installed-serve
SOUND := .venv/.installed-sound
TEST := .venv/.installed-test
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --build-deps-for=editable \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra onnx --extra xgboost --extra lightgbm --extra sklearn --extra arrow --extra triton --extra control --extra postgres --extra s3 --extra grpc --extra samples

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install serve test test-clients lint format types bench bench-control bench-multi-model onnx-cases overload soak crash compatibility lock clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-17s %s\n", $$1, $$2}'

install: $(SERVE) ## make .venv with the serving command

serve: $(SERVE) $(SOUND) ## sample models, a server on 127.0.0.1:8080 and an S3 on 8333, with calls to paste (PORT=, HOST=, ARGS=)
	@$(BIN)/serving samples .samples --url http://$(HOST):$(PORT)
	@exec $(BIN)/serving up --host $(HOST) --port $(PORT) --state-dir .state --with-s3 --model-repository .samples $(ARGS)

test: lint ## environment, lint, types and tests (ARGS= goes to pytest)
	$(BIN)/pytest $(ARGS)

test-clients: $(TEST) .clients/sdk2/.installed .clients/sdk3/.installed .clients/kserve/.installed ## stock SageMaker SDKs v2 and v3 and the KServe SDK, each in an environment of its own
	$(BIN)/pytest tests/clients $(ARGS)

lint: $(TEST) types ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(TEST)
	$(BIN)/mypy

format: $(TEST) ## let ruff fix and format what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(TEST) ## the benchmark table with plots, nine peers included (ARGS=--help tells more)
	$(BIN)/python -m loadtests.bench --json .bench/report.json --markdown .bench/report.md --plots .bench/plots $(ARGS)

bench-control: $(TEST) ## the control plane's benchmark (ARGS=--help tells more)
	$(BIN)/python -m loadtests.control --json .bench/control.json --markdown .bench/control.md $(ARGS)

bench-multi-model: $(TEST) ## the benchmark of many models on one endpoint (ARGS=--help tells more)
	$(BIN)/python -m loadtests.multi_model --json .bench/multi-model.json --markdown .bench/multi-model.md $(ARGS)

onnx-cases: $(TEST) ## ONNX's own node cases, directly and over REST and gRPC (ARGS=--help tells more)
	$(BIN)/python -m loadtests.onnx_cases --json .bench/onnx-cases.json --markdown .bench/onnx-cases.md $(ARGS)

overload: $(TEST) ## ten minutes of open-loop load above capacity, and a worker killed under load
	$(BIN)/python -m loadtests.overload $(ARGS)

soak: $(TEST) ## long runs: the batcher's properties, then mixed traffic with killed workers (ARGS= goes to the latter)
	$(BIN)/pytest -q tests/runtime/test_batcher.py --hypothesis-profile=long
	$(BIN)/python -m loadtests.soak $(ARGS)

crash: $(TEST) ## supervisor and workers killed 200 times under control traffic (ARGS=--help tells more)
	$(BIN)/python -m loadtests.crash --markdown .bench/crash.md $(ARGS)

compatibility: $(TEST) ## docs/compatibility.md made anew
	$(BIN)/python -m serving.control.compatibility > docs/compatibility.md

lock: | $(BIN)/python ## renew the lock files from pyproject.toml, keeping pins that still fit (ARGS=--upgrade renews them)
	$(BIN)/pip install --quiet pip-tools
	$(COMPILE) $(ARGS) --output-file requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) --extra test --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	for sdk in sdk2 sdk3 kserve; do $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links $(ARGS) --output-file tests/clients/$$sdk.lock tests/clients/$$sdk.in || exit 1; done

clean: ## remove everything that make made
	rm -rf .venv .clients .samples .state .bench .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; PYTHON=/path/to/python3 names another." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || { echo "Python has no venv module: install python3-venv." >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

$(SERVE): requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(SOUND): requirements-no-deps.lock $(SERVE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-no-deps.lock
	@touch $@

$(TEST): requirements-dev.lock $(SERVE) $(SOUND)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.clients/%/.installed: tests/clients/%.lock | $(BIN)/python
	"$(PYTHON)" -m venv --clear .clients/$*
	.clients/$*/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
