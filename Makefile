# `make book` builds the site, `make test` proves the project; both set up .venv first. `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
PEERS  := $(VENV)/.installed-bench
export PYTHONUTF8 := 1

.PHONY: book test browser epub onepage pdf prepare bench serve clean help
.DEFAULT_GOAL := help

$(STAMP): settings.ini constraints.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"Python >= 3.10 is needed, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=...")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[lab,cluster,dev]"
	@touch $@

book: $(STAMP)  ## export the package, execute every chapter, build the site into _build/html
	@$(PY) book/build.py

test: $(STAMP)  ## everything that proves the project (builds the book first: its pages are tested too)
	@$(PY) book/build.py --quiet
	@$(PY) -m pytest

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

serve: book  ## build, then serve the site on 127.0.0.1:8000
	@$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

clean:  ## remove what was built, keep .venv
	@rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

help:  ## this list
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## */  make \1\t/'
