# Two commands: `make run` and `make test`. Both install what they need into .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A Python without ensurepip (Debian's, without python3-venv) makes an environment without pip; its own pip serves then.
PIP     = $(if $(wildcard $(BIN)/pip),$(BIN)/python -m pip,$(PYTHON) -m pip --python $(BIN)/python) --disable-pip-version-check

.PHONY: install run test check bench soak clean

install: $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headwater needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev,bench]'
	@touch $(VENV)/.installed $(VENV)/.installed-dev $@

# Everything, in the foreground, on http://127.0.0.1:8003. Options go through: make run ARGS='--port 8100 --no-seed'
run: install
	@exec $(BIN)/headwater up $(ARGS)

# The whole suite, on the embedded stores.
test: check
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks $(ARGS)

# The stream checker, then the coherence checker of the cache at each level under every fault, each for as long as they
# are told: make soak SECONDS=3600. They end with 1 when anything is lost, or anything stale is read.
SECONDS ?= 60
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.kernel.stream_checker $(SECONDS) $(SEED)
	$(BIN)/python -m benchmarks.coherence --seconds $(SECONDS) --faults all --level strict
	$(BIN)/python -m benchmarks.coherence --seconds $(SECONDS) --faults all --level snapshot
	$(BIN)/python -m benchmarks.coherence --seconds $(SECONDS) --faults all --level bounded --near 1000
	$(BIN)/python -m benchmarks.coherence --seconds $(SECONDS) --faults all --level relaxed

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
