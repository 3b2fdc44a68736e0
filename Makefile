# `make demo` and `make test` set up what they need from nothing: Python >= 3.11 and a package index are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
WORKERS ?= 2

.PHONY: demo test test-all check benchmark clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jopt needs Python >= 3.11, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --constraint constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

# Trains, prunes, quantizes and packs LeNet-300-100 on the handwritten digits; tables, and a report with pictures in $(RUN).
demo: $(VENV)/.installed
	$(BIN)/jopt train --config=configs/digits_compress.py --workdir=$(RUN)

# The default suite: eight minutes on two cores with nothing compiled before, less later on.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal

# The slow tests too: accuracies over seeds, twenty kills.
test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal -m 'slow or not slow'

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

benchmark: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' --constraint constraints.txt
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
