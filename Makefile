# `make test` and `make demo` do all of their own set-up: a fresh machine needs only Python 3.11 or newer, and make.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PY := $(BIN)/python
STAMP := .venv/.installed
# make test PYTEST_ARGS='-k uce'; make outputs NB=nbs/0_base/00_core.ipynb
PYTEST_ARGS ?=
NB ?=
SLOW ?=
# Two processes that take tests from each other when they run out: the notebooks alone take longer than
# everything else. Each gets its share of the cores.
WORKERS ?= 2
THREADS := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); t=$$((n / $(WORKERS))); echo $$((t > 0 ? t : 1)))

.PHONY: help test quick seconds claims kills fuzz demo outputs prepare sidebar face readme docs docs-preview lint install

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

# The stamp is the last thing written, so an interrupted installation starts again and a finished one costs nothing.
# pyproject.toml is not among the prerequisites: nbdev_export writes it anew each time, with the same text.
$(STAMP): settings.ini setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: none was found on PATH (or give PYTHON=...)" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

install: $(STAMP) ## make .venv and install the package with the tested versions

test: $(STAMP) ## every test: the notebooks, the package, the house rules
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(PY) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

quick: $(STAMP) ## in under two minutes: the house rules, the package, one notebook a band
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(PY) -m pytest -n $(WORKERS) --dist worksteal --quick $(PYTEST_ARGS)

# On an idle machine, when lessons have become longer or shorter.
seconds: $(STAMP) ## how long each notebook takes, into tests/seconds.json: the longest begin first
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/test_notebooks.py -q -n $(WORKERS) --dist worksteal --keep-seconds $(PYTEST_ARGS)

# Long; for some notebooks, make claims PYTEST_ARGS='-k fade'.
# The page nbs/explanations/02_claims_about_chance shows the record.
claims: $(STAMP) ## what lessons assert of chance, under six seeds, one and two threads, other rounding
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal --claims=$${CLAIMS:-6} \
	    --claims-record=nbs/explanations/claims_about_chance.json $(PYTEST_ARGS)

# Long; `make test` kills a few.
kills: $(STAMP) ## kill batches at a hundred moments, every writer at every event; stores must not differ
	$(PY) -m pytest tests/test_kills.py -q --kills
	PYTHONPATH=. MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(PY) tests/kills.py --kills 100 --pairs 10
	PYTHONPATH=. MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(PY) tests/kills.py --kills 100 --chain 25 --embedded
	for engine in local pool slurm $$($(PY) -c 'import ray' 2>/dev/null && echo ray); do \
	    PYTHONPATH=. MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(PY) tests/kills.py --kills 20 --engine $$engine || exit 1; \
	done

# Others than last time: make fuzz SEED=1.
SEED ?= 0
fuzz: $(STAMP) ## two thousand bad inputs: no traceback, no file outside, no hang
	$(PY) -m pytest tests/test_fuzz.py -q --fuzz 2000 --fuzz-seed $(SEED)

demo: $(STAMP) ## forget one emoji, measure what else was forgotten
	$(BIN)/vu demo

prepare: $(STAMP) ## before a commit: export, sidebar, face, README, links of tutorials, clean
	$(PY) tools/sources.py export
	$(PY) tools/sidebar.py
	$(PY) tools/face.py
	$(PY) tools/readme.py
	$(PY) tools/elsewhere.py
	$(PY) tools/sources.py clean

outputs: $(STAMP) ## run library notebooks and tutorials again, keep their outputs (NB=... for some, SLOW=1 for long cells too)
	$(PY) tools/sources.py export
	$(PY) tools/outputs.py $(if $(SLOW),--slow) $(NB)
	$(PY) tools/sources.py clean

sidebar: $(STAMP) ## list the notebooks in _quarto.yml
	$(PY) tools/sidebar.py

face: $(STAMP) ## offer methods and metrics as vu.NAME
	$(PY) tools/face.py

readme: $(STAMP) ## README.md from nbs/index.ipynb
	$(PY) tools/readme.py

docs: $(STAMP) ## the docs with quarto in _docs/; README.md and the tree stay as they are
	@command -v quarto >/dev/null || { echo "quarto is needed (https://quarto.org), or: make docs-preview" >&2; exit 1; }
	@touch README.md
	PYTHONPATH=tools HF_HUB_OFFLINE=1 $(PY) tools/sources.py docs

docs-preview: $(STAMP) ## the docs as plain HTML in _docs/, without quarto
	$(PY) tools/preview.py

lint: $(STAMP) ## ruff
	$(BIN)/ruff check .
