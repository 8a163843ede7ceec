# make demo | test | long | check | docs | bench. Each first makes .venv, if it is missing or older than what it is made of.

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Two processes with one thread each are faster on two cores than one process with two.
# Compiled files are kept, as the tests start many processes, even where the environment turns that off.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
PHOTOS := src/refseg/data/examples/
EXPRESSIONS := "the cat on the left" "the person" "the horse" "the violin"

.PHONY: demo test long check browser docs bench clean

demo: .venv/core  ## words in, masks out
	@rm -rf demo
	$(BIN)/refseg predict $(PHOTOS) $(EXPRESSIONS) --out demo
	@echo "Look at:" && ls demo/*_overlay.jpg

test: .venv/full browser  ## everything that needs neither a GPU nor real photos
	$(PYTEST) -m "not gpu and not real and not long"

long: .venv/full  ## tests that take minutes, every family exported and compiled models; and OpenVINO, which changes its process
	$(PYTEST) -m long

check: .venv/full browser  ## before every commit: style, types, and the tests that are fast
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(PYTEST) -q -m "not slow and not gpu and not real"

browser: .venv/core  ## what the tests of the page need: Chromium, where Debian's packages may be installed, and onnxruntime-web
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing Debian's package chromium" && \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; } || \
	echo "There is no Chromium; without it the tests of the page are skipped"
	@[ -d .venv/web ] || { command -v npm >/dev/null && \
	  npm install --silent --ignore-scripts --no-audit --prefix .venv/web onnxruntime-web@1.30.0; } || \
	echo "There is no npm, or no network; without it the test of the static site is skipped"

docs: .venv/full  ## the site, in site/
	$(BIN)/zensical build --clean --strict

bench: .venv/full  ## speeds, each a ratio within one run
	for what in predict_speed forward_speed shapes_speed score_speed data_index; do \
	  $(BIN)/python benchmarks/$$what.py || exit 1; \
	done

clean:  ## what the other targets made
	rm -rf .venv site demo

# Files that stand for a finished installation: one that was interrupted has none, and is done again.
.venv/core: pyproject.toml constraints.txt
	@set -e; \
	for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
	done; \
	[ -n "$$python" ] || { echo "refseg needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python" >&2; exit 1; }; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear .venv
	@echo "Installing refseg into .venv"
	@$(PIP) -qq -e .
	@touch $@

.venv/full: .venv/core
	@echo "Installing PyTorch and the tools into .venv; a minute or two"
	@$(PIP) -qq -e '.[dev]'
	@touch $@
