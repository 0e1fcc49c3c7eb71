# make demo   set everything up and run the demo: 96 source models, their influences, a report
# make test   set everything up and run the tests
# make mutation   try whether the tests of the core notice small wrong changes
# make docs   build the documentation: outputs/site/index.html
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := outputs/demo

.PHONY: demo test test-slow test-stress docs check mutation setup clean
.DEFAULT_GOAL := help

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sourcewise needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,slurm]'
	@touch $@

demo: $(VENV)/.ready
	$(RUN) train.py --multirun experiment=demo
	$(RUN) estimate.py records=$(DEMO)/runs out=$(DEMO)

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2

test-slow: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadfile -m 'slow or browser'
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m slurm

test-stress: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m stress

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	@echo outputs/site/index.html

check: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

mutation: $(VENV)/.ready
	PATH=$(abspath $(VENV)/bin):$$PATH OMP_NUM_THREADS=1 $(RUN) benchmarks/mutation.py

clean:
	rm -rf $(VENV) outputs mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis
