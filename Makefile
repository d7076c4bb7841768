# Each target does its own set-up: a virtual environment with both backends, and what the target needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test test-long test-interop test-jax lint bench clean

quickstart: $(VENV)/.installed
	$(BIN)/hermes quickstart

test: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

test-long: $(VENV)/.tests
	$(BIN)/pytest -m "long or not long"
	$(BIN)/hermes conformance self-test

# Other tools as oracles: their own classes compute what hermes says of its folders.
test-interop: $(VENV)/.interop
	$(BIN)/pytest -m "long or not long" tests/interop tests/against_other_tools

# The example of a third backend earns its levels.
test-jax: $(VENV)/.jax
	$(BIN)/pytest -m "long or not long" tests/conformance/test_jax.py
	$(BIN)/hermes conformance run --backend jax --level L0-L2

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.tests
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/checkpoint.py

# torch comes first and alone, so that its pin decides and nothing else pulls another build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "Error: hermes needs Python 3.11 to 3.13, found %d.%d; run make with PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(PIP) --editable '.[all,test,lint]'
	@touch $@

$(VENV)/.interop: $(VENV)/.tests
	$(PIP) --editable '.[all,test,interop-test]'
	@touch $@

$(VENV)/.jax: $(VENV)/.tests examples/backend_jax/pyproject.toml
	$(PIP) 'jax[cpu]'
	$(PIP) --editable examples/backend_jax
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
