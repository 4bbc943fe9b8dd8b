.DEFAULT_GOAL := help
.PHONY: help demo test lint format types notebooks wheel-test clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

# One stamp a dependency group: set up once, and again when pyproject.toml changes.
$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1,<27"
	@touch $@

$(VENV)/.%-ready: pyproject.toml $(VENV)/.pip
	$(BIN)/python -m pip install --quiet --editable . --group $*
	@touch $@

demo: $(VENV)/.demo-ready  ## Run the main job on real clients (LIVE=1: on real models)
	@LIVE=$(LIVE) $(BIN)/python -m demo

test: $(VENV)/.test-ready  ## Run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev-ready  ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.dev-ready  ## Format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.dev-ready  ## Check the types
	$(BIN)/mypy

notebooks: $(VENV)/.notebook-ready  ## Execute every notebook
	$(BIN)/jupyter nbconvert --to notebook --execute --log-level WARN \
		--output-dir "$$(mktemp -d)" notebooks/*.ipynb

wheel-test: $(VENV)/.dev-ready  ## Build the wheel and test it, installed, away from the source
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .
	./scripts/test-wheel dist/*.whl

clean:  ## Remove all that is built
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
