# `make demo` and `make test` need only Python 3.11+, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Touched when the installation is whole, so that an interrupted one is repeated.
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-slow check format install clean

demo: install  ## the whole path on a generated shop
	rm -rf demo
	$(BIN)/seqrec demo --output demo

test: install  ## the tests, under 10 minutes on 2 cores
	$(BIN)/python -m pytest

test-slow: install  ## the tests that take long
	$(BIN)/python -m pytest -m slow

check: install  ## what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
