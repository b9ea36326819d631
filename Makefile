# Everything the book needs, one verb a line. `make help` lists the verbs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book results train serve check test lint format refresh bench bench-peers test-interop setup clean

PORT ?= 8000
BIN := .venv/bin
STAMP := .venv/.installed
STRIP := $(BIN)/nbstripout --keep-output --keep-count --extra-keys metadata.language_info.version
CHAPTERS := $(wildcard chapters/*.ipynb)
# Chapters are stored and compared in the same surroundings; a progress bar in one of the two would be a difference.
AS_STORED := TQDM_DISABLE=1 SAE_BOOK_RENDERER=book
# A file's tests stay together, since they share what is made for them; each process has one thread.
AT_ONCE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

# A misspelt variable would be ignored without a word, and the book would run at the wrong scale.
KNOWN := SCALE CORPUS SEED RUN PORT PYTHON
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(KNOWN) MAKEFLAGS MAKEOVERRIDES .SHELLFLAGS -*,$(GIVEN))
ifneq ($(strip $(UNKNOWN)),)
$(error unknown setting: $(strip $(UNKNOWN)). The settings are $(KNOWN))
endif

# Passed only when given, so that a plain `make book` renders the chapters' own defaults.
SETTINGS = $(if $(SCALE),--scale "$$SCALE") $(if $(CORPUS),--corpus "$$CORPUS") $(if $(SEED),--seed "$$SEED")
export SCALE CORPUS SEED RUN

# The virtual environment's own kernel, whatever kernels the user has installed.
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## this list
	@echo "make VERB [SCALE=released|smoke|laptop|night|colab|paper] [CORPUS=…] [SEED=…]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

book: $(STAMP) ## run every chapter and render the book into _site/_build/html
	@$(BIN)/sae-book book $(SETTINGS)

results: $(STAMP) ## measure at length on held-out text and keep the numbers: make results
	@$(BIN)/sae-book results $(SETTINGS)

train: $(STAMP) ## train runs and what they need: make train RUN="A/0 A/1" SCALE=laptop CORPUS=…
	@set -f; $(BIN)/sae-book train $${RUN:?say which run, for instance RUN=A/1} $(SETTINGS)

serve: $(STAMP) ## show the built book at http://127.0.0.1:8000 (PORT=… for another port)
	@test -f _site/_build/html/index.html || { echo "There is no built book yet: run 'make book' first." >&2; exit 1; }
	@echo "The book is at http://127.0.0.1:$(PORT)/ (Ctrl-C ends it)."
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _site/_build/html $(PORT)

check: $(STAMP) ## open every page of the built book in Chromium with the network blocked
	@test -f _site/_build/html/index.html || { echo "There is no built book yet: run 'make book' first." >&2; exit 1; }
	@$(BIN)/python -m pytest tests/browser_check.py tests/atlas_check.py

test: $(STAMP) ## unit tests, then every chapter against its stored outputs
	@echo "Unit tests:"
	@$(AT_ONCE) tests
	@echo "Chapters against their stored outputs:"
	@# Whichever chapter comes second to a run waits for it.
	@$(AS_STORED) $(AT_ONCE) --nbval --nbval-kernel-name python3 chapters

lint: $(STAMP) ## style of the code and of the stored notebooks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(STRIP) --verify $(CHAPTERS) || { echo "These notebooks are not normalised: run 'make refresh'." >&2; exit 1; }

format: $(STAMP) ## mend what `make lint` can mend by itself
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .
	@$(STRIP) $(CHAPTERS)

refresh: $(STAMP) ## run the chapters in place at their defaults and store the outputs
	@for chapter in $(CHAPTERS); do \
		echo "$$chapter"; \
		$(AS_STORED) $(BIN)/jupyter execute --inplace --kernel_name=python3 "$$chapter"; \
		$(STRIP) "$$chapter"; \
	done

bench: $(STAMP) ## how fast training is, against its own arithmetic (ten minutes)
	@$(BIN)/python benchmarks/bench.py

bench-peers: $(STAMP) ## the same against other trainers, each in an environment of its own below .peers/ (twenty minutes)
	@$(BIN)/python benchmarks/peers.py

test-interop: $(STAMP) ## load the exports with the packages they are for, each in an environment of its own below .peers/
	@PYTHONPATH=benchmarks$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python tests/interop/check.py

setup: $(STAMP) ## only make .venv and install what is pinned

clean: ## remove the rendered book and the caches; runs/ and .venv stay
	rm -rf _site .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt requirements-run.txt pyproject.toml
	@# Without pip it is what an interrupted or a failed attempt left.
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
			if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				echo "Making .venv with $$python."; "$$python" -m venv --clear .venv; break; \
			fi; \
		done; \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "The book needs Python 3.11 or newer; say where it is: make setup PYTHON=/path/to/python3" >&2; exit 1; }; \
	fi
	@echo "Installing what requirements.txt pins into .venv (minutes the first time, seconds later)."
	@$(BIN)/python -m pip install -qq --requirement requirements.txt
	@$(BIN)/python -m pip install -qq --no-deps --editable .
	@# TransformerLens 3.9 beside the environment: 4.0 took away HookedTransformer, which the model is also tested against.
	@$(BIN)/python -m pip install -qq --no-deps --upgrade --target .venv/transformer-lens-3.9 transformer-lens==3.9.0 better-abc==0.0.3
	@touch $(STAMP)
