# Every command of the house. No logic in here: it is in the files that are called.

export PATH := $(CURDIR)/.venv/bin:$(PATH)

distributions := protos timeline servicekit services/collector services/identity services/history gateway
compile := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
table := .venv/bin/python -m footfall_servicekit.settings

.PHONY: help install run test lint types proto released settings requirements wheels up

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' Makefile | column -t -s '|'

install: ## make .venv, or bring it up to date; every other command does it first
	@deploy/install

run: install ## run the whole suite embedded, until Ctrl-C
	@exec .venv/bin/python -m deploy.run

test: install lint types ## lint, check types and rules, and run all tests against real servers
	@deploy/install-chromium
	@.venv/bin/pytest

lint: install ## check format, style, imports and the contract
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/python protos/generate.py --check
	@cd protos && buf lint && buf breaking --against released.binpb

types: install ## check types
	@.venv/bin/mypy $(distributions) deploy tests

proto: install ## generate protos/gen anew
	@.venv/bin/python protos/generate.py

released: install ## take the contract as it is now for the one that later ones must not break
	@cd protos && buf build --exclude-source-info -o released.binpb

settings: install ## write the tables of settings in the READMEs anew
	@$(table) footfall_collector.settings:CollectorSettings services/collector/README.md
	@$(table) footfall_identity.settings:IdentitySettings services/identity/README.md
	@$(table) footfall_history.settings:HistorySettings services/history/README.md
	@$(table) footfall_gateway.settings:GatewaySettings gateway/README.md

requirements: install ## pin all versions anew
	@$(compile) requirements.in -o requirements.txt
	@$(compile) --prerelease=if-necessary-or-explicit requirements-dev.in -o requirements-dev.txt
	@$(compile) requirements-build.in -o requirements-build.txt

wheels: install ## build every distribution into dist/
	@.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist $(addprefix ./,$(distributions))

up: ## run the suite in containers
	@docker compose up --build
