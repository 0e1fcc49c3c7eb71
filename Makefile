PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := outputs/demo

.PHONY: help setup lock demo test test-slow test-slurm test-stress test-lowest check docs mutation clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.ready  ## make .venv, with everything that the other targets need

$(VENV)/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sourcewise needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lock:  ## write requirements.lock: the newest versions that pyproject.toml allows, for every Python and system, with hashes
	uv pip compile pyproject.toml --extra dev --extra slurm --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command 'make lock' --quiet --upgrade --output-file requirements.lock

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

test-lowest: $(VENV)/.ready  ## run the tests with the lowest versions that pyproject.toml allows, in .venv-lowest (needs uv)
	mkdir -p outputs
	uv pip compile pyproject.toml --extra slurm --extra hf --extra timm --extra reports \
		--resolution lowest-direct --python-version 3.11 --quiet --output-file outputs/lowest.txt
	uv venv --quiet --clear --python $(RUN) .venv-lowest
	uv pip install --quiet --python .venv-lowest --constraint outputs/lowest.txt --editable '.[dev,slurm]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses 2 --dist worksteal

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
	rm -rf $(VENV) .venv-lowest outputs mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis
