# Everything a newcomer needs: `make serve` and `make test`.  ARGS is handed on.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq

.PHONY: help serve test lint format docs client lock build loadtest clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 16

serve: .venv/installed ## run a hub on this machine: http://127.0.0.1:8080, data in ./data
	$(BIN)/hub serve $(ARGS)

test: .venv/installed-dev ## run all tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/installed-dev ## format, types, import contracts, shell, containers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hub
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck .ci/run deploy/make-secrets
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema -q --builtin-schema vendor.compose-spec compose.yaml

format: .venv/installed-dev ## put the code into its form
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

docs: .venv/installed ## write the pages that are made from code
	$(BIN)/python -c 'from hub.config import settings_page; print(settings_page(), end="")' > docs/settings.md
	$(BIN)/python -m tests.protocol_doc

client: clients/js/node_modules/.package-lock.json ## make what browsers load, clients/js/dist, from its sources (Node 20)
	cd clients/js && npm run --silent build

build: .venv/installed ## wheel and sdist into dist/
	$(BIN)/python -m hatchling build --clean

loadtest: .venv/installed-dev ## measure everything once, small, in five minutes, into loadtest/results/
	$(BIN)/python -m loadtest short --into loadtest/results/$$(date -u +%Y-%m-%d)-short $(ARGS)

lock: .venv/bin/python ## choose new versions and pin them by hash
	$(PIP) uv
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --upgrade \
		--extra server --extra postgres --extra redis --extra folder --group build pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --upgrade \
		--extra server --extra postgres --extra redis --extra folder --group build --group dev -c requirements.txt pyproject.toml -o requirements-dev.txt

clean: ## remove what make made
	rm -rf .venv dist

clients/js/node_modules/.package-lock.json: clients/js/package-lock.json
	cd clients/js && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

# The stamps are files, so that a second run starts at once.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sync-hub needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml requirements.txt
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@
