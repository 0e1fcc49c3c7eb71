PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := outputs/demo

.PHONY: help setup demo test test-slow test-slurm test-stress check docs mutation clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.ready  ## make .venv, with everything that the other targets need

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sourcewise needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,slurm]'
	@touch $@

demo: $(VENV)/.ready  ## run the demo: 96 source models, a search for a better source, influences, a report
	$(RUN) train.py --multirun experiment=demo
	$(RUN) train.py --multirun experiment=demo_search
	$(RUN) estimate.py records=$(DEMO)/runs out=$(DEMO)

test: $(VENV)/.ready  ## run the tests that need nothing but this machine's processor
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal

test-slow: $(VENV)/.ready  ## run the tests marked slow and browser
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal -m 'slow or browser'

test-slurm: $(VENV)/.ready  ## run the tests on a Slurm of this machine's own
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m slurm

test-stress: $(VENV)/.ready  ## run the tests that kill whole sweeps, fill disks and watch memory
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m stress

check: $(VENV)/.ready  ## lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.ready  ## build the documentation: outputs/site/index.html
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	@echo outputs/site/index.html

mutation: $(VENV)/.ready  ## count the small wrong changes of the core that its tests notice
	PATH=$(abspath $(VENV)/bin):$$PATH OMP_NUM_THREADS=1 $(RUN) benchmarks/mutation.py

clean:  ## remove .venv, outputs/ and caches
	rm -rf $(VENV) outputs mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis
