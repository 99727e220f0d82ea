# `make demo` and `make test` need only Python 3.11 to 3.13, git and make.
PYTHON ?= python3
VENV ?= .venv
# Folder of the public data sets that the benchmarks read.
SEQREC_DATA_DIR ?= ../shared/data
BIN = $(VENV)/bin
# Touched when the installation is whole, so that an interrupted one is repeated.
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-slow check format bench install clean

demo: install  ## the whole path on a generated shop
	rm -rf demo
	$(BIN)/seqrec demo --output demo

test: install  ## the tests, about 4 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install  ## the tests that take long
	$(BIN)/python -m pytest -m slow

check: install  ## what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install bench/ml-1m/COMPLETED bench/beauty/COMPLETED bench/retailrocket/COMPLETED bench/rectools/.installed  ## speed and memory, one table; half an hour
	$(BIN)/python benchmarks/bench.py --peer-python bench/rectools/bin/python

bench/ml-1m/COMPLETED: | install
	$(BIN)/seqrec prepare --preset movielens-1m --input $(SEQREC_DATA_DIR)/ml-1m --min-item-events 5 --output bench/ml-1m

bench/beauty/COMPLETED: | install
	$(BIN)/seqrec prepare --preset amazon-beauty --input $(SEQREC_DATA_DIR)/amazon-beauty --output bench/beauty

bench/retailrocket/COMPLETED: | install
	$(BIN)/seqrec prepare --preset retailrocket --input $(SEQREC_DATA_DIR)/retailrocket --output bench/retailrocket

# The peer has an environment of its own; the pinned PyTorch is the last that it was measured with.
bench/rectools/.installed:
	$(PYTHON) -m venv bench/rectools
	bench/rectools/bin/python -m pip install --quiet torch==2.13.0
	bench/rectools/bin/python -m pip install --quiet "rectools[torch]==0.19.0" polars "pyarrow<26"  # 26 wants NumPy 2
	touch $@

install: $(INSTALLED)

$(INSTALLED): setup.py
	@echo "Installing into $(VENV); this takes a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
