# Everyday commands. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A pipe fails when any of its programs does.
SHELL  := /bin/bash
.SHELLFLAGS := -o pipefail -ec
# pip's own words, one package a line, so that a long download is seen to move.
SHOW   := sed -un 's/^ *\(Collecting\|Downloading\|Installing collected packages\) *\([^ ]*\).*/  \1 \2/p'
# Downloads are kept where `make down` finds them.
PIP    := --disable-pip-version-check --cache-dir .local/pip
LOCK    = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

# The tests start Python some hundred times: each of our files is compiled once, and no folder of the checkout
# shows it.
check test: export PYTHONPYCACHEPREFIX := $(CURDIR)/.local/pycache
check test: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help up down catalogue fleet fleet-down check test bench soak lock operator reference

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.deploy: requirements-deploy.lock
	@echo "Python environment for the deploy …"
	@mkdir -p -m 700 .local
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install $(PIP) --require-hashes -r requirements-deploy.lock | $(SHOW)
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.deploy
	@echo "Python environment for the tests …"
	@$(BIN)/pip install $(PIP) --require-hashes -r requirements-dev.lock | $(SHOW)
	@touch $@

up: $(VENV)/.deploy ## make this machine a one-host fleet
	@$(BIN)/python -m roles.up

down: $(VENV)/.deploy ## take everything away again
	@$(BIN)/python -m roles.down

catalogue: $(VENV)/.deploy ## the services of the site, as a table
	@$(BIN)/python -m inventory.catalogue $(DESKFLEET_SITE)

fleet: $(VENV)/.dev ## the example site, rolled out over SSH to machines made on this one
	@$(BIN)/python -m tests.fleet up

fleet-down: $(VENV)/.dev ## take the machines of `make fleet` away again
	@$(BIN)/python -m tests.fleet down

check: $(VENV)/.dev ## lint, types and fast tests; about two minutes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/pytest -q -n auto -m "not real and not host and not browser and not optin"

test: $(VENV)/.dev ## everything, on real parts
	@$(BIN)/python -m tests.run

bench: $(VENV)/.dev ## ratios against the alternatives, one table
	@$(BIN)/python -m tests.bench $(ONLY)

soak: $(VENV)/.dev ## long runs and fuzzing; as root, after `make test`
	@DESKFLEET_SOAK=1 $(BIN)/pytest -m soak --timeout=7200

reference: $(VENV)/.dev ## write docs/api-reference.md and the skill's text from the code
	@$(BIN)/python -m tests.api_reference
	@$(BIN)/python -m viewer.mcp.skill > docs/skills/code-sandbox/SKILL.md

operator: $(VENV)/.deploy ## make your age identity, and print the key for `operators:`
	@$(BIN)/python -m inventory.operator

lock: ## pin every dependency again, with hashes
	@$(BIN)/pip install --quiet uv
	@$(LOCK) --group deploy -o requirements-deploy.lock
	@$(LOCK) pyproject.toml --group dev -o requirements-dev.lock
	@$(LOCK) pyproject.toml -o templates/viewer/requirements.txt
	@$(LOCK) templates/opensandbox/requirements.in -o templates/opensandbox/requirements.txt
	@$(LOCK) tests/rollout/requirements.in -o tests/rollout/requirements.txt
	@$(LOCK) tests/stock/requirements.in -o tests/stock/requirements.txt
