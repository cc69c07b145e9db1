# Every command of the house. No logic in here: it is in the files that are called.

bin := $(CURDIR)/.venv/bin
distributions := protos timeline servicekit eventlog services/collector services/identity services/history services/relay gateway client ops
compile := $(bin)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

# Programs start a third slower when Python keeps no bytecode of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run demo test test-long upgrade-test chaos bench bench-history bench-contacts bench-hostile soak lint types docs-test proto released reference settings requirements audit screenshots wheels up

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { sub(/ .*/, "", $$1); printf "make %-13s %s\n", $$1, $$2 }' Makefile

install: ## make .venv, or bring it up to date; the others but help and up do it first
	@deploy/install

run: install ## run the whole suite embedded, until Ctrl-C
	@exec $(bin)/python -m deploy.run

demo: install ## send visitors of invented websites to the suite of make run, for ten minutes
	@$(bin)/python -m deploy.demo

test: install ## lint, check types and rules, and run all tests against real servers
	@$(MAKE) --no-print-directory --jobs=2 lint types
	@deploy/install-chromium
	@deploy/install-jquery
	@deploy/install-node
	@$(bin)/pytest -m "not long" --numprocesses auto --dist loadfile --no-loadscope-reorder || { \
		echo "What failed beside other tests runs once more, alone. If it passes now, it has a race: mend it."; \
		$(bin)/pytest -m "not long" --last-failed --last-failed-no-failures none --maxfail 5; }

test-long: install ## run the tests that `make test` leaves out: replicas, upgrades, imports, hostile pages, restored stores
	@deploy/install-chromium
	@deploy/install-jquery
	@deploy/install-node
	@deploy/install-prometheus
	@$(bin)/pytest -m long --numprocesses auto --dist loadfile --no-loadscope-reorder

upgrade-test: install ## replace the services of the last tagged version by today's and back, under load (5 minutes)
	@$(bin)/pytest tests/upgrade

chaos: install ## inject faults under load, count what is lost (nothing), and write docs/ops/reliability.md (10 minutes, Linux)
	@$(bin)/python -m tests.chaos

bench: install ## load the whole suite beside the bare floor, and write docs/dev/performance.md and docs/ops/scaling.md (13 minutes, Linux)
	@bench/install-wrk
	@$(bin)/python -m bench

bench-history: install ## compare queries over 10,000 and 1,000,000 events, and write docs/dev/performance.md (10 minutes, Linux)
	@$(bin)/python -m bench.history

bench-contacts: install ## compare searches among 10,000 and 1,000,000 contacts, write 50,000, and write docs/dev/performance.md (8 minutes, Linux)
	@$(bin)/python -m bench.contacts
	@$(bin)/python -m bench.contact_writes

bench-hostile: install ## time the beacons of others while one address sends the costliest bodies (3 minutes, Linux)
	@$(bin)/python -m bench.hostile

soak: install ## watch the memory of each program under steady load, and write docs/dev/performance.md (10 minutes, Linux)
	@bench/install-wrk
	@$(bin)/python -m bench.soak

lint: install ## check format, style, imports, the contract, containers, and the words of the documents
	@$(bin)/ruff format --quiet --check .
	@$(bin)/ruff check --quiet .
	@$(bin)/lint-imports --no-logo
	@PATH="$(bin):$$PATH" python protos/generate.py --check
	@$(bin)/yamllint --strict docker-compose.yml docker-compose.tls.yml deploy
	@$(bin)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.tls.yml
	@deploy/checkov
	@cd protos && $(bin)/buf lint && $(bin)/buf breaking --against released.binpb
	@$(bin)/python -m docs.prose bench client deploy docs eventlog gateway ops servicekit services tests timeline

types: install ## check types
	@$(bin)/mypy $(distributions) deploy bench docs tests

docs-test: install ## run the commands of the documents and check all that the documents name; part of test
	@$(bin)/python -m docs.generate --check
	@$(bin)/pytest tests/docs tests/arch/test_documents.py tests/arch/test_security_table.py

proto: install ## generate protos/gen anew
	@PATH="$(bin):$$PATH" python protos/generate.py

released: install ## take the contract as it is now for the one that later ones must not break
	@cd protos && $(bin)/buf build --exclude-source-info -o released.binpb

reference settings: install ## write the tables in the documents that the sources determine, as of settings
	@$(bin)/python -m docs.generate

requirements: install ## pin all versions anew
	@$(compile) requirements.in -o requirements.txt
	@$(compile) requirements-relay.in -o requirements-relay.txt
	@$(compile) --prerelease=if-necessary-or-explicit requirements-dev.in -o requirements-dev.txt
	@$(compile) requirements-build.in -o requirements-build.txt
	@$(compile) requirements-checkov.in -o requirements-checkov.txt

audit: install ## ask the vulnerability service of PyPI about every pinned version
	@$(bin)/pip-audit --strict --disable-pip --require-hashes --progress-spinner=off \
	    -r requirements.txt -r requirements-relay.txt -r requirements-dev.txt -r requirements-build.txt

screenshots: install ## take the pictures of docs/images from a real suite (2 minutes)
	@deploy/install-chromium
	@$(bin)/python -m docs.screenshots

wheels: install ## build every distribution into dist/
	@$(bin)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist $(addprefix ./,$(distributions))

up: ## run the suite in containers
	@docker compose up --build
