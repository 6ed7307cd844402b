# make demo   trains the demo ladder end to end and writes report/index.html
# make test   installs what is missing and runs the whole suite
# make fuzz   the property tests at random examples (the suite's are the same each time); run it until it finds something
# make lint   ruff, its format and pyright
# make docs   builds the documentation, warnings are errors
# make test-slurm, coverage, choices, admission, ladder, recipes   the Slurm tests alone; the slow studies
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PYTHONWARNINGS ?= default

.PHONY: install demo test test-slurm fuzz lint docs coverage choices admission ladder recipes

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== installing torch 2.13.0, then the project and its tools (about two minutes)"
	$(BIN)/python -m pip install --progress-bar on torch==2.13.0
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m sweeps.demo

test: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python
	@# tests that start processes may lose a race on a busy machine: once more, and the summary counts it
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --reruns 1

# the launcher on a real Slurm, which the tests install (Debian) and bring up themselves
test-slurm: $(STAMP)
	$(BIN)/python -m pytest -q tests/slurm

fuzz: $(STAMP)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q -n 2 --dist loadfile $$(grep -rl "from hypothesis import.*given" tests)

# slow studies; results are committed under docs/results with command, commit and date
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py --workers 2 --studies 400 --draws 300 --out build/coverage.json

choices: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/choices.py --workers 2 --out build/choices

admission: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/admission.py run --task chain --models scratch_24,scratch_48,scratch_96 --seeds 0,1,2,3,4 --steps 150

# resumable: each call goes on where the last one stopped
ladder recipes: $(STAMP)
	$(BIN)/python benchmarks/ladder.py run --plan $(if $(filter ladder,$@),cpu,recipes) --work runs/$@ --workers 2 --seconds 86400

docs: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python
