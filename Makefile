# What this project can do for you. Each target does its own set-up: a virtual environment in .venv
# with both backends, and whatever else the target needs.
#
#   make quickstart       tokenizer, training on both backends, text and a plot, in a few minutes
#   make test             linters, types and tests on both backends; continuous integration runs this
#   make test-long        the tests that take minutes too, and the conformance suite's self-test
#   make test-interop     other tools as oracles: transformers, mlx-lm, PEFT, TRL
#   make test-jax         the example of a third backend passes the levels it claims
#   make conformance      judge a backend: BACKEND=torch|mlx, DEVICE=cpu|cuda|gpu|..., LONG=--long
#   make lint             ruff and mypy, the checks of .pre-commit-config.yaml
#   make lint-workflows   the workflows and templates in .github
#   make docs             execute the notebooks and build the site in site/; any warning is an error
#   make docs-serve       the same site on the loopback interface
#   make wheel            build sdist and wheel in dist/, install the wheel elsewhere and try it
#   make audit            compare everything that the pins install with known advisories
#   make licences         list the licences of what hermes installs in docs/licences.md
#   make sbom             a bill of materials of what the wheel installs, in build/ (after make wheel)
#   make check-version    whether TAG=v1.2.3 is the version in pyproject.toml and in CHANGELOG.md
#   make bench            measure training, decoding and checkpoints on this machine
#   make clean            remove the virtual environment and everything built
#
# Variables: PYTHON, the interpreter that makes the environment (python3); VENV, its folder (.venv);
# PROCESSES, how many run the tests (2), each a file at a time and with the memory of a backend or two.

PYTHON ?= python3
VENV ?= .venv
PROCESSES ?= 2
BACKEND ?= torch
DEVICE ?=
LONG ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test test-long test-interop test-jax conformance lint lint-workflows docs \
	docs-serve wheel audit licences sbom check-version bench clean

quickstart: $(VENV)/.installed
	$(BIN)/hermes quickstart

test: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile

test-long: $(VENV)/.tests
	$(BIN)/pytest -m "long or not long" --hypothesis-profile search
	$(BIN)/hermes conformance self-test

# Other tools as oracles: their own classes compute what hermes says of its folders.
test-interop: $(VENV)/.interop
	$(BIN)/pytest -m "long or not long" tests/interop tests/against_other_tools

# The example of a third backend earns its levels.
test-jax: $(VENV)/.jax
	$(BIN)/pytest -m "long or not long" tests/conformance/test_jax.py
	$(BIN)/hermes conformance run --backend jax --level L0-L2

# `hermes doctor` first, so that the log of a failure says what the machine had.
conformance: $(VENV)/.tests
	$(BIN)/hermes doctor
	$(BIN)/hermes conformance run --backend $(BACKEND) $(if $(DEVICE),--device $(DEVICE)) $(LONG)

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# zizmor looks for what an attacker could use: injected expressions, broad permissions, loose pins.
lint-workflows: $(VENV)/.workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
		.github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml .github/ISSUE_TEMPLATE/model.yml
	$(BIN)/yamllint --strict --config-file .github/yamllint.yml .github .pre-commit-config.yaml mkdocs.yml
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github

# A site that needs no network, from pages of docs/ and specs/ and from docstrings. (Not --quiet, under which
# MkDocs counts no warnings.)
docs: $(VENV)/.docs
	$(BIN)/python docs/prepare.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs
	$(BIN)/python docs/prepare.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Built twice, with the same bytes: whoever has the source can check what is published. Then the wheel is
# tried in a fresh environment, from a folder where the checkout cannot be imported.
wheel: $(VENV)/.build
	rm -rf dist build/wheel build/again
	$(BIN)/python -m build --outdir dist
	umask 077 && TZ=Asia/Tokyo $(BIN)/python -m build --outdir build/again
	for file in dist/*; do cmp "$$file" "build/again/$${file#dist/}" || exit 1; done
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		"$$(ls dist/*.whl)[all]"
	cd build/wheel && bin/python -I "$(CURDIR)/.github/try_wheel.py"

audit: $(VENV)/.audit
	$(BIN)/python .github/audit_pins.py

licences: $(VENV)/.tests
	$(BIN)/python .github/list_licences.py > docs/licences.tmp
	mv docs/licences.tmp docs/licences.md

# CycloneDX, of the environment in which `make wheel` tried the wheel.
sbom: $(VENV)/.audit
	@test -x build/wheel/bin/hermes || { echo "Error: no build/wheel; run make wheel first"; exit 1; }
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json build/wheel/bin/python

check-version:
	$(PYTHON) .github/check_version.py "$(TAG)"

bench: $(VENV)/.tests
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/checkpoint.py

# torch comes first and alone, so that its pin decides and nothing else pulls another build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else "Error: hermes needs Python 3.11 to 3.14, found %d.%d; run make with PYTHON=python3.12" % v)'
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

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) --editable '.[all,docs]'
	@touch $@

# These need neither backend, so continuous integration need not install one for them.
$(VENV)/.workflows: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) check-jsonschema zizmor yamllint
	@touch $@

$(VENV)/.build: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) build twine
	@touch $@

$(VENV)/.audit: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) pip-audit cyclonedx-bom
	@touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
