# Every target works as the first command on a fresh clone: it makes .venv and installs what is missing.
# `python3 -m venv` needs Python 3.11 or newer; name another one with `make PYTHON=python3.12 demo`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help demo test test-all test-page lint format
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## convert the embedded digits network and measure it
	@echo "== ann2snn convert digits: the embedded network becomes build/digits.snn"
	@mkdir -p build
	$(BIN)/ann2snn convert digits -o build/digits.snn --data digits --force

test: lint  ## style, types, and every test that takes seconds
	@echo "== pytest"
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadscope

test-all: lint  ## the same, and the slow tests on ../shared
	@echo "== pytest, slow tests too"
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadscope -m ""

test-page: $(INSTALLED)  ## the page in a headless Chromium; fetches onnxruntime-web from npm into build/
	@mkdir -p build
	@test -f build/onnxruntime-web-1.30.0.tgz || npm pack --pack-destination build onnxruntime-web@1.30.0
	$(BIN)/pytest tests/test_export_page.py

lint: $(INSTALLED)  ## ruff and mypy
	@echo "== ruff"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@echo "== mypy"
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff put the files into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# One install, so that torch and torchvision are resolved together and pip's configuration decides the build.
$(INSTALLED): pyproject.toml
	@echo "== making .venv and installing ann2snn into it (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar off -e ".[dev]"
	@touch $@
