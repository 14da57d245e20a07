# `make book` builds the site, `make test` proves the project; both set up .venv first. `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
PEERS  := $(VENV)/.installed-bench
export PYTHONUTF8 := 1

.PHONY: book test browser epub onepage pdf prepare bench bench-models gpu gpu-models gpu-lab colab serve clean help
.DEFAULT_GOAL := help

$(STAMP): settings.ini constraints.txt setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python >= 3.10 is needed, none was found: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"Python >= 3.10 is needed, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=...")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[lab,cluster,dev]"
	@touch $@

book: $(STAMP)  ## export the package, execute every chapter, build the site into _build/html: a quarter of an hour at first
	@$(PY) book/build.py

test: $(STAMP)  ## everything that proves the project (builds the book first: its pages are tested too)
	@$(PY) book/build.py --quiet
	@$(PY) -m pytest -n auto --dist loadfile -m "not alone"
	@$(PY) -m pytest -m alone

browser: $(STAMP)  ## a chromium for the tests of the site and for the PDF, where none is: Debian's package, as root
	@$(PY) book/browser.py

prepare: $(STAMP)  ## before a commit: clean, export, README, lint, quick tests
	@$(PY) book/prepare.py
	@$(VENV)/bin/ruff check
	@$(PY) -m pytest -m quick

epub onepage pdf: book  ## the book to take along: _build/epub/book.epub, _build/singlehtml, _build/pdf/book.pdf
	@$(PY) book/offline.py $@

$(PEERS): $(STAMP)
	@echo "installing what the benchmark compares with ..."
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@touch $@

bench: $(PEERS)  ## time the package beside its peers on this CPU, a quarter of an hour: writes results/cpu.json
	@$(PY) benchmarks/cpu.py

bench-models: $(STAMP)  ## time whole models before and after accelerate on this CPU: writes results/models-cpu.json
	@$(PY) benchmarks/models.py

# On a machine with a CUDA card nothing is installed: what is there must do. PY=python3 where .venv knows no card.
CARD_PY = $(if $(findstring command line,$(origin PY)),$(PY),$(if $(wildcard $(STAMP)),$(PY),python3))
LAB     = PYTHONPATH=. $(CARD_PY) -c 'import sys; from gn_nb.lab.cli import main; sys.exit(main())'
SLICE  ?= 420

gpu:  ## on a CUDA card, under 8 minutes: tests, sanitizers, times; writes results/gpu-*.json, again: goes on
	@$(CARD_PY) benchmarks/card.py

gpu-models:  ## there, with diffusers: whole models before and after accelerate; writes results/models-*.json
	@PYTHONPATH=. $(CARD_PY) benchmarks/models.py --device cuda

gpu-lab:  ## there: the experiments meant for a card; begins no run after SLICE=420 seconds, again: goes on
	@end=$$(($$(date +%s) + $(SLICE))); status=0; names=$$($(LAB) sweeps gpu) || exit 1; \
	for name in $$names; do \
		left=$$((end - $$(date +%s))); [ $$left -gt 0 ] || break; \
		$(LAB) sweep $$name --quiet --seconds $$left || status=1; \
	done; exit $$status

colab: $(STAMP)  ## run the chapters with Colab's versions, in an environment of their own; CHAPTERS="00 03" for some
	@$(PY) book/colab.py $(CHAPTERS)

serve: book  ## build, then serve the site on 127.0.0.1:8000
	@$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

clean:  ## remove what was built, keep .venv
	@rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

help:  ## this list
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## */  make \1\t/'
