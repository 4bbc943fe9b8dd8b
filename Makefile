.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test providers lint format types notebooks mutants bench instructions build wheel-test clean

PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
TEST_FILE ?= tests

help: ## Show this help.
	@echo "Usage: make <target>; each sets up .venv by itself."
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: .venv/.demo-ready ## See it at work. LIVE=1 asks OpenAI (needs OPENAI_API_KEY).
	@$(BIN)/python -m demo $(if $(LIVE),--live)

test: .venv/.test-ready ## Run the tests. TEST_FILE=tests/test_x.py runs some.
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(TEST_FILE)

providers: .providers-venv/.ready ## Test every provider's client, in an environment of its own.
	ALL_PROVIDERS=1 .providers-venv/bin/python -m pytest $(PYTEST_ARGS) tests/providers

lint: .venv/.dev-ready ## Check the code's style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --diff .

format: .venv/.dev-ready ## Put the code's style right.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev-ready ## Check the types.
	$(BIN)/mypy -p langchain_model_gateway -p demo
	$(BIN)/mypy --strict tests/typing/api.py

notebooks: .venv/.notebook-ready ## Execute every notebook; the files stay as they are.
	@set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	$(BIN)/python -m nbconvert --to notebook --execute --output-dir "$$out" notebooks/*.ipynb

mutants: .venv/.dev-ready ## Plant bugs in the pure modules, and list those no test catches.
	$(BIN)/python -m mutmut run --max-children 2
	$(BIN)/python -m mutmut results

bench: .bench-venv/.ready ## Measure against the peers. QUICK=1 for a first look.
	.bench-venv/bin/python -m benchmarks $(if $(QUICK),--quick)

instructions: .bench-venv/.ready ## Count the instructions of a healthy call; needs valgrind.
	.bench-venv/bin/python -m benchmarks.instructions

.providers-venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .providers-venv
	@.providers-venv/bin/python -m pip install --quiet --upgrade pip
	@.providers-venv/bin/python -m pip install --quiet --editable . --group providers
	@touch $@

.bench-venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .bench-venv
	@.bench-venv/bin/python -m pip install --quiet --upgrade pip
	@.bench-venv/bin/python -m pip install --quiet --editable . --group bench
	@touch $@

build: .venv/.dev-ready ## Build the wheel into dist/.
	@rm -rf dist
	$(BIN)/python -m build --wheel

wheel-test: build ## Test the built wheel, installed in an environment of its own.
	./scripts/test-wheel dist/*.whl

clean: ## Remove the environment and everything built.
	rm -rf .venv .bench-venv .providers-venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp a dependency group: installed once, and again when pyproject.toml changes.
.venv/.%-ready: pyproject.toml .venv/.pip-ready
	@echo "Installing the '$*' dependencies into .venv ..."
	@$(BIN)/python -m pip install --quiet --editable . --group $*
	@touch $@

.venv/.pip-ready:
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@
