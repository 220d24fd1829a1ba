# Needs only make and Python 3.10 to 3.13. Another Python: make test PYTHON=python3.12 VENV=.venv-3.12
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# rl-baselines3-zoo's loader, for tests. What it needs beside to train stays out: its moviepy wants an older Pillow.
ZOO := rl_zoo3 sb3-team-hf-integration wasabi

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format docs wheel benchmark guard clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## install everything in .venv (the other targets do it by themselves)

demo: $(STAMP) ## train a small group of learners from start to finish
	$(BIN)/python scripts/demo.py

test: $(STAMP) ## run the tests (more options: PYTEST_ARGS="-k sac -x")
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

test-slow: $(STAMP) ## run the tests that take over 5 seconds each: kills, compiled updates, whole benchmarks
	$(MAKE) test PYTEST_ARGS="-m 'slow and not nightly'"

check: $(STAMP) ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs ## build the documentation in site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

wheel: $(STAMP) ## build the wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist .

benchmark: $(STAMP) ## measure the training speed
	$(BIN)/python -m experiments.speed.run

guard: $(STAMP) ## fail where training is slower than the committed ratio to SB3
	$(BIN)/python -m experiments.speed.guard

clean: ## remove .venv and caches (runs and results stay)
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# setuptools comes first, so that the project is built with the pinned one instead of the newest.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" > /dev/null || { echo "policykd: no '$(PYTHON)' here; install Python 3.10 to 3.13, or name one with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { echo "policykd: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); needed is Python 3.10 to 3.13: name one with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { echo "policykd: '$(PYTHON)' has no venv module; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "policykd: setting up $(VENV), once; this downloads PyTorch and may take some minutes"
	"$(PYTHON)" -m venv "$(VENV)"
	$(BIN)/python -m pip install -c constraints.txt setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e ".[dev]"
	$(BIN)/python -m pip install -c constraints.txt --no-deps $(ZOO)
	@touch $@

# What only the documentation needs.
$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e ".[docs]"
	@touch $@
