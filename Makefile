# One command for each thing a contributor does. `make` alone explains them.
# The environment (.venv) makes itself and follows pyproject.toml and constraints.txt.

PYTHON ?= python3
PORT ?= 8000
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DBOS := bench/.venv-dbos
DBOS_READY := $(DBOS)/.ready
RESTATE := bench/.venv-restate
RESTATE_READY := $(RESTATE)/.ready
DRIVERS := bench/.venv-drivers
DRIVERS_READY := $(DRIVERS)/.ready
REQUESTS := bench/.venv-requests
REQUESTS_READY := $(REQUESTS)/.ready
COMPARISON := bench/.venv-comparison
COMPARISON_READY := $(COMPARISON)/.ready
MEMORY := bench/.venv-memory
MEMORY_READY := $(MEMORY)/.ready
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready
PIP := -m pip --disable-pip-version-check --no-input install -qq

export PORT

.DEFAULT_GOAL := help
.PHONY: help run shop test servers cluster check format bench bench-commit bench-postgres \
  bench-http bench-scale bench-requests bench-comparison bench-memory simulate powerloss crash \
  planted prove-kernel drivers fences sizes sleepers soak docs clean

help: ## Show this help
	@echo "make <target>   (PYTHON=$(PYTHON) makes the environment; 3.11 or newer)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## Run the sign-up example (PORT=8000, OUTLIVE_STORE=sqlite:///…)
	@$(BIN)/python examples/signup/run.py

shop: $(READY) ## Run the shop example on three workers (PORT=8000, OUTLIVE_STORE=…)
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m examples.shop.run

# Those in ALONE measure how soon something happens, on a machine of their own; others only count.
ALONE := $(addprefix tests/crash/test_,kill.py freeze.py drain.py) tests/cluster

test: check servers ## Everything: check, then all tests, most of them in JOBS=3 processes
	@failed=0; \
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=15 \
	  $(addprefix --ignore=,$(ALONE)) || failed=1; \
	$(BIN)/python -m pytest --durations=15 $(ALONE) || failed=1; \
	exit $$failed

servers: ## Install the servers and tools that the tests need (as root)
	$(call installed,libfaketime,ls /usr/lib/*/faketime/libfaketime.so.1)
	$(call installed,iproute2,ls /usr/sbin/ip /sbin/ip /usr/bin/ip)
	$(call installed,strace,ls /usr/bin/strace /usr/local/bin/strace)
	$(call installed,curl,command -v curl)
	$(call installed,postgresql,ls /usr/lib/postgresql/*/bin/postgres)
	$(call installed,pgbouncer,ls /usr/sbin/pgbouncer /usr/bin/pgbouncer /usr/local/bin/pgbouncer)
	$(call installed,memcached,ls /usr/bin/memcached /usr/local/bin/memcached /usr/sbin/memcached)
	$(call installed,chromium,command -v chromium chromium-browser google-chrome)

powerloss: $(READY) ## Power loss at every write, errors at every call of the disk: 10 minutes
	@$(BIN)/python -m outlive.testing.powerloss
	@$(BIN)/python -m outlive.testing.badcalls

crash: $(READY) ## Kill both samples at every commit, and again while they recover: 5 minutes
	@$(BIN)/python -m tests.simulation.samples

cluster: $(READY) servers ## Fail-overs of three servers under Patroni, under load: 15 minutes
	$(call installed,patroni,ls /usr/bin/patroni)
	$(call installed,etcd-server,ls /usr/bin/etcd)
	@$(BIN)/python -m tests.failover

soak: $(READY) ## Two hours of load and a kill a minute: what is lost, what grows (MINUTES=…)
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),120)

planted: $(READY) servers ## Plant known bugs in a copy; each must be caught (ONLY=03,07)
	@$(BIN)/python -m tests.planted.run --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

prove-kernel: $(READY) servers ## Run the harnesses and write docs/proofs.md (ONLY=…)
	@$(BIN)/python -m tests.proofs --write $(if $(ONLY),--only $(ONLY))

check: $(READY) ## Under a minute: lint, format, types, house style
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { \
	  echo "not formatted; 'make format' mends:"; $(BIN)/ruff format --check; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_tidy.py

simulate: $(READY) ## A minute of simulated clusters (SEED=17, or MINUTES=10)
	@$(BIN)/python -m outlive.testing.simulate \
	  $(if $(SEED),--seed $(SEED),--minutes $(or $(MINUTES),1))

format: $(READY) ## Format the code and sort the imports
	@$(BIN)/ruff check --select I --fix --quiet
	@$(BIN)/ruff format --quiet

bench: $(READY) $(DBOS_READY) ## Measure beside the peers; WRITE=1 puts it into docs/benchmarks.md
	@command -v strace >/dev/null || apt-get install -y -qq strace >/dev/null 2>&1 || \
	  echo "no strace: syncs are not counted"
	@$(BIN)/python bench/processes.py $(if $(WRITE),--write)

bench-commit: $(READY) ## Where the time of one process at a time goes (WRITE=1 too)
	@$(BIN)/python bench/one_commit.py $(if $(WRITE),--write)

bench-postgres: $(READY) $(DBOS_READY) ## The same on PostgreSQL (WRITE=1 too)
	@$(BIN)/python bench/processes.py --store postgres $(if $(WRITE),--write)

bench-http: $(READY) $(RESTATE_READY) ## Measure behind HTTP beside Restate (npm; WRITE=1 too)
	@$(BIN)/python bench/over_http.py $(if $(WRITE),--write)

bench-scale: $(READY) ## Measure 1, 2 and 4 nodes on one PostgreSQL (WRITE=1 too)
	@$(BIN)/python bench/scale.py $(if $(WRITE),--write)

bench-requests: $(READY) $(REQUESTS_READY) ## What each request pays, beside peers (WRITE=1 too)
	@$(BIN)/python bench/requests.py $(if $(WRITE),--write)

bench-comparison: $(READY) $(COMPARISON_READY) ## Count what goes wrong beside peers (WRITE=1 too)
	@$(BIN)/python bench/comparison.py $(if $(WRITE),--write)

drivers: $(READY) $(DRIVERS_READY) ## Measure asyncpg against psycopg on a group commit
	@$(BIN)/python bench/drivers.py

bench-memory: $(READY) $(MEMORY_READY) ## Breakers and caches in memory, beside peers (WRITE=1 too)
	@$(BIN)/python bench/memory_kinds.py $(if $(WRITE),--write)

fences: $(READY) ## Measure two fences on PostgreSQL under a forgotten transaction
	@$(BIN)/python bench/fences.py

sizes: $(READY) ## Measure whether a gigabyte of history costs anything (WRITE=1 too)
	@$(BIN)/python bench/sizes.py --megabytes 1000 $(if $(WRITE),--write)

sleepers: $(READY) ## Measure 100,000 sleepers and a process of 10,000 steps (WRITE=1 too)
	@$(BIN)/python bench/sleepers.py $(if $(WRITE),--write)

docs: $(READY) $(DOCS_READY) ## Build the manual into ./site; a link that leads nowhere fails
	@$(BIN)/python -m tests.reference >/dev/null
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict
	@echo "the manual is at site/index.html"

clean: ## Remove the environments and every cache
	@rm -rf $(VENV) $(DBOS) $(RESTATE) bench/node_modules $(DRIVERS) $(REQUESTS) $(MEMORY) \
	  $(COMPARISON) $(DOCS) site
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call installed,package,proof): install a package of the system unless its programs are there.
# The tests start the programs themselves: a service that the package starts is not used. Where it
# cannot be installed the tests that need it fail, and say so.
define installed
@$(2) 2>/dev/null | grep -q . || { \
  echo "installing $(1) (apt-get)"; \
  export DEBIAN_FRONTEND=noninteractive; \
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1); } \
    >/dev/null 2>&1; }; \
  $(2) 2>/dev/null | grep -q . || echo "$(1) could not be installed; its tests will fail"
endef

# $(call environment,folder): a virtual environment, also where Debian's python3-venv is missing.
define environment
@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed"; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "outlive needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1)."; \
  echo "Name another one: make PYTHON=python3.12 …"; exit 1; }
@test -x $(1)/bin/pip || $(PYTHON) -m venv $(1) >/dev/null 2>&1 || { \
  $(PYTHON) -m venv --without-pip $(1) && \
  $(PYTHON) -m pip --python $(1)/bin/python install -qq pip; }
endef

$(READY): pyproject.toml constraints.txt
	$(call environment,$(VENV))
	@echo "setting up $(VENV) (a minute the first time)"
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(DBOS_READY): bench/peers/dbos.txt
	$(call environment,$(DBOS))
	@echo "setting up $(DBOS) (a minute the first time)"
	@$(DBOS)/bin/python $(PIP) -r bench/peers/dbos.txt
	@touch $@

$(RESTATE_READY): bench/peers/restate.txt bench/package.json
	$(call environment,$(RESTATE))
	@echo "setting up $(RESTATE) and bench/node_modules (a minute the first time)"
	@$(RESTATE)/bin/python $(PIP) -r bench/peers/restate.txt
	@npm install --prefix bench --no-package-lock --no-audit --no-fund --silent
	@touch $@

$(REQUESTS_READY): bench/requests.txt
	$(call environment,$(REQUESTS))
	@echo "setting up $(REQUESTS) (a minute the first time)"
	@$(REQUESTS)/bin/python $(PIP) -r bench/requests.txt
	@touch $@

$(MEMORY_READY): bench/memory_kinds.txt
	$(call environment,$(MEMORY))
	@echo "setting up $(MEMORY) (a minute the first time)"
	@$(MEMORY)/bin/python $(PIP) -r bench/memory_kinds.txt
	@touch $@

$(COMPARISON_READY): bench/peers/compared.txt
	$(call environment,$(COMPARISON))
	@echo "setting up $(COMPARISON) (a minute the first time)"
	@$(COMPARISON)/bin/python $(PIP) -r bench/peers/compared.txt
	@touch $@

$(DRIVERS_READY): bench/drivers.txt
	$(call environment,$(DRIVERS))
	@echo "setting up $(DRIVERS) (a minute the first time)"
	@$(DRIVERS)/bin/python $(PIP) -r bench/drivers.txt
	@touch $@

$(DOCS_READY): docs/site.txt
	$(call environment,$(DOCS))
	@echo "setting up $(DOCS) (a minute the first time)"
	@$(DOCS)/bin/python $(PIP) -r docs/site.txt
	@touch $@
