.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-all test-matrix lint format data sweep paper bench ui dashboard clean

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Test processes, each of which trains on one thread; what they wait for leaves room for three on two cores.
JOBS ?= 3
DATASET ?= ptbxl
RATE ?=
SIZE ?=
ARGS ?= optimizer=sgd,adam lr=0.001,0.01
STUDY ?= $(shell ls -t mlruns/sweeps/*/study.journal 2>/dev/null | head -1)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/installed ## Install everything into .venv (done by the other targets as needed)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --upgrade pip
	python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## Train and track a small sweep on generated ECGs (2 to 3 minutes on 2 cores, once installed)
	python -m ecgexp -m optimizer=sgd,adam lr=0.001,0.01

test: setup ## Run the tests, of simulations and kills a smaller number
	python -m pytest -n $(JOBS) --dist worksteal -m 'not full'

test-fast: setup ## Run the quick tests
	python -m pytest -n $(JOBS) --dist worksteal -m 'not slow and not full'

test-all: setup ## Run all tests, also the long ones
	python -m pytest -n $(JOBS) --dist worksteal

test-matrix: setup ## Run the quick tests with each Python, lowest versions, and Hydra's next (SESSION=... for one)
	python .ci/matrix $(SESSION)

lint: setup ## Check style and types
	ruff check .
	ruff format --check .
	mypy
	mypy --config-file tests/mypy.ini tests

format: setup ## Put the code into the project's format
	ruff check --fix .
	ruff format .

data: setup ## Download PTB-XL (RATE=500 for 500 Hz), or DATASET=mitbih, or DATASET=bloodmnist (SIZE=64, 128, 224) and others
	python -m ecgexp.datasets.download --dataset $(DATASET) $(if $(RATE),--sampling-rate $(RATE)) $(if $(SIZE),--size $(SIZE))

sweep: setup ## Run a sweep: make sweep ARGS="dataset=ptbxl lr=0.001,0.01"
	python -m ecgexp -m $(ARGS)

paper: setup ## Run the study of Leandro et al. 2023 on PTB-XL, and report it (days on a CPU; resumes)
	python -m ecgexp -m experiment=leandro2023 sweep.name=leandro2023
	python -m ecgexp.report sweep=leandro2023

bench: $(VENV)/bench ## Measure speed beside Keras on TensorFlow and plain PyTorch (an hour or two)
	python -m benchmarks

$(VENV)/bench: $(VENV)/installed
	python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $@

ui: setup ## Open the MLflow UI on http://127.0.0.1:5000
	uri=$$(python -m ecgexp.tracking) && \
	  MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri "$$uri" --host 127.0.0.1

dashboard: setup ## Open optuna-dashboard on the latest search (STUDY=postgresql://... for a database)
	@test -n '$(STUDY)' || { echo "There is no search in mlruns/ yet: python -m ecgexp -m hydra/sweeper=optuna ..."; exit 1; }
	optuna-dashboard '$(STUDY)' --host 127.0.0.1 --port 8080

clean: ## Remove what tests and builds leave behind (not data, not mlruns)
	rm -rf build dist outputs multirun .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
