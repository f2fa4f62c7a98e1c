# Everything a user or a developer types. The Python to build on can be chosen: make PYTHON=python3.12 install
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install dev serve check test test-all test-clients format clean

install: .venv/installed
dev: .venv/installed-dev

# torch comes first and by its exact version: an open range may pull gigabytes of CUDA packages on a CPU machine.
.venv/installed: pyproject.toml CMakeLists.txt $(wildcard src/ramify/ops/cpu/csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

# The bundled model, on http://127.0.0.1:30000
serve: install
	$(BIN)/ramify serve

check: dev
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# What this machine can run, in under 15 minutes on two cores.
test: dev
	$(BIN)/pytest -m "not slow and not gpu" tests

test-all: dev
	$(BIN)/pytest tests

# LangChain, LiteLLM, instructor and lm-evaluation-harness against a server of this tree. They live apart from it.
CLIENTS := build/clients

$(CLIENTS)/installed: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(CLIENTS)/bin/pip install --quiet --group clients
	@touch $@

test-clients: install $(CLIENTS)/installed
	RAMIFY_TEST_PYTHON=$(CURDIR)/$(BIN)/python $(CLIENTS)/bin/python -m pytest tests/clients

format: dev
	$(BIN)/ruff check --fix src tests scripts benchmarks
	$(BIN)/ruff format src tests scripts benchmarks

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
