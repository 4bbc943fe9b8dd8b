.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help again demo demo-many hello python test test-lowest test-next providers engines lint format types types-docs docs lab notebooks mutants bench before instructions screenshots pictures build wheel-test clean

DEFAULT_PYTHON := $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
PYTHON ?= $(DEFAULT_PYTHON)
# One environment a Python: .venv for the default, .venv-3.13 for PYTHON=python3.13.
VERSION = $(or $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),$(error \
  PYTHON=$(PYTHON) does not start))
VENV ?= .venv$(if $(filter-out $(DEFAULT_PYTHON),$(PYTHON)),-$(VERSION))
VENV := $(VENV)
LOWEST := $(VENV)-lowest
BIN := $(VENV)/bin
TEST_FILE ?= tests
# A file's tests stay in one process, the slow files first; one file alone needs no more than this
# one. Some tests wait for a server: one process more than there are cores, so that none is idle.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
PARALLEL = $(if $(filter tests,$(TEST_FILE)),--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder)
LANGCHAIN_CORE_MAIN := git+https://github.com/langchain-ai/langchain@master\#subdirectory=libs/core

help: ## Show this help.
	@echo "Usage: make <target>; each sets up $(VENV) by itself. PYTHON=python3.13 takes another Python."
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: hello $(VENV)/.demo-ready ## See it at work. LIVE=1 asks OpenAI (needs OPENAI_API_KEY).
	@$(BIN)/python -m demo $(if $(LIVE),--live)

hello: python
	@echo "The demo of langchain-model-gateway$(if $(wildcard $(VENV)/.demo-ready),,. First it sets up $(VENV), in about half a minute)."

# Said before anything else; plain enough for any Python to read.
python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or later is \
	needed; $(PYTHON) is %d.%d. Take another: make $(MAKECMDGOALS) PYTHON=python3.12" % v[:2])'

demo-many: python $(VENV)/.many-ready ## See four processes share what they know over one server.
	@$(BIN)/python -m demo.many

test: $(VENV)/.test-ready ## Run the tests. TEST_FILE=tests/test_x.py runs some.
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS) $(TEST_FILE)

test-lowest: $(LOWEST)/.ready ## Run the tests with the lowest versions that pyproject.toml allows.
	$(LOWEST)/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS) $(TEST_FILE)

test-next: ## Run the tests against langchain-core's main branch, in an environment of their own.
	@$(MAKE) --no-print-directory VENV=.venv-next .venv-next/.test-ready
	.venv-next/bin/python -m pip install --quiet "langchain-core @ $(LANGCHAIN_CORE_MAIN)"
	.venv-next/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS) $(TEST_FILE)

PROVIDERS_TESTS := tests/providers $(addprefix tests/test_,classify.py clients.py history.py serialization_security.py)

providers: .providers-venv/.ready ## Test every provider's client, in an environment of its own. FULL=1 for all combinations.
	ALL_PROVIDERS=1 FULL=$(FULL) .providers-venv/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS) $(PROVIDERS_TESTS)

engines: .engines-venv/.ready ## Run offline jobs on Ray, Dask, Spark (needs Java) and others, killed in the middle. FIGURES=1 measures them.
	ENGINES=1 .engines-venv/bin/python -m $(if $(FIGURES),tests.engines.figures,pytest $(PYTEST_ARGS) tests/engines)

lint: $(VENV)/.dev-ready ## Check the code's style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --diff .

format: $(VENV)/.dev-ready ## Put the code's style right.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: types-docs ## Check the types: the package's, what users see of the API, and the documents'.
	$(BIN)/mypy -p langchain_model_gateway -p demo
	$(BIN)/mypy --strict tests/typing/api.py
	$(BIN)/pyright

types-docs: $(VENV)/.dev-ready ## Check the types of the code in README and docs.
	@rm -rf build/documents
	$(BIN)/python -m tests.typing.documents build/documents
	$(BIN)/mypy --strict build/documents/*.py
	$(BIN)/pyright build/documents/*.py

docs: .docs-venv/.ready ## Build the docs site into build/site, strictly and offline.
	@rm -rf build/site
	.docs-venv/bin/zensical build --clean --strict
	@echo "Look at it: $(PYTHON) -m http.server --directory build/site"

lab: $(VENV)/.lab-ready ## Open the notebooks in JupyterLab.
	$(BIN)/jupyter lab notebooks

notebooks: $(VENV)/.notebook-ready ## Execute every notebook; the files stay as they are.
	@set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	ls notebooks/*.ipynb | xargs -P 2 -n 1 $(BIN)/python -m nbconvert --to notebook --execute --output-dir "$$out"

mutants: $(VENV)/.dev-ready ## Plant bugs in the pure modules, and list those no test catches.
	$(BIN)/python -m mutmut run --max-children 2
	$(BIN)/python -m mutmut results

bench: .bench-venv/.ready ## Measure against the peers. QUICK=1 for a first look.
	.bench-venv/bin/python -m benchmarks.observing
	.bench-venv/bin/python -m benchmarks $(if $(QUICK),--quick)

before: .bench-venv/.ready ## Measure a call beside an earlier commit: make before COMMIT=<commit>.
	.bench-venv/bin/python -m benchmarks.before $(COMMIT)

instructions: .bench-venv/.ready ## Count the instructions of a healthy call; needs valgrind.
	.bench-venv/bin/python -m benchmarks.instructions

screenshots: .screenshots-venv/.ready ## Take pictures of all notebooks in a real JupyterLab, into build/screenshots/. Needs Chromium.
	@.screenshots-venv/bin/python -m tests.browser.lab
	.screenshots-venv/bin/python -m pytest $(PYTEST_ARGS) tests/browser
	.screenshots-venv/bin/python -m tests.browser.screenshots $(NOTEBOOK)

pictures: .screenshots-venv/.ready ## Make the README's pictures anew. Needs Chromium.
	.screenshots-venv/bin/python -m tests.browser.pictures

.screenshots-venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .screenshots-venv
	@.screenshots-venv/bin/python -m pip install --quiet --upgrade pip
	@.screenshots-venv/bin/python -m pip install --quiet --editable . --group screenshots
	@touch $@

# What would not fit beside the rest has an environment of its own, of the same name as its group.
.providers-venv/.ready .engines-venv/.ready .bench-venv/.ready: .%-venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .$*-venv
	@.$*-venv/bin/python -m pip install --quiet --upgrade pip
	@.$*-venv/bin/python -m pip install --quiet --editable . --group $*
	@touch $@

.docs-venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .docs-venv
	@.docs-venv/bin/python -m pip install --quiet --upgrade pip
	@.docs-venv/bin/python -m pip install --quiet --group docs
	@touch $@

$(LOWEST)/.ready: pyproject.toml
	@$(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	@$(LOWEST)/bin/python scripts/lowest > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install --quiet --editable . --group test \
	  --constraint $(LOWEST)/constraints.txt
	@touch $@

build: $(VENV)/.dev-ready ## Build the wheel into dist/.
	@rm -rf dist
	$(BIN)/python -m build --wheel

wheel-test: build ## Test the built wheel, installed in an environment of its own.
	./scripts/test-wheel dist/*.whl

clean: ## Remove the environment and everything built.
	rm -rf .venv .venv-* .bench-venv .docs-venv .engines-venv .providers-venv .screenshots-venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp a dependency group: installed once, and again when pyproject.toml changes.
$(VENV)/.%-ready: pyproject.toml $(VENV)/.pip-ready
	@echo "Installing the '$*' dependencies into $(VENV) ..."
	@$(BIN)/python scripts/install --editable . --group $*
	@touch $@

# Made anew where its Python is gone, or is another version than the one asked for.
IN_VENV := $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

$(VENV)/.pip-ready: $(if $(filter $(VERSION),$(IN_VENV)),,again) | python
	@$(if $(wildcard $(VENV)),echo "Making $(VENV) anew: its Python is gone or is not $(VERSION) ...")
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python scripts/install --upgrade pip
	@touch $@
