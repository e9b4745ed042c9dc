# Two commands on a fresh machine with Python >= 3.11: `make demo` and `make test`.
# SETTINGS="name=value ..." is passed on to the demo.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Every other package has exactly the version of this file; `make lock` writes it anew.
CONSTRAINTS ?= constraints.txt
TORCH := torch==2.13.0
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
    $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: demo test check test-newest test-oldest lock clean

demo: $(VENV)/installed
	$(BIN)/longrun demo $(SETTINGS)

# The journeys run although a test before them failed; any failure fails the target.
test: check
	status=0; \
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not journey" || status=1; \
	$(BIN)/python -m pytest -m journey || status=1; \
	exit $$status

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch first and by name: everything else then accepts the build that is there. The build
# backend is a constrained package too, so nothing is fetched that no file names.
$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python >= 3.11 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) setuptools
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

# The suite against the newest releases that pyproject.toml admits, and against its lower bounds.
test-newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

test-oldest:
	$(PYTHON) .ci/constraints.py oldest > .constraints-oldest.txt
	rm -rf .venv-oldest
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=.constraints-oldest.txt

lock:
	rm -rf .venv-lock
	$(MAKE) .venv-lock/installed-dev VENV=.venv-lock CONSTRAINTS=
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --editable '.[bench,hub]'
	.venv-lock/bin/python .ci/constraints.py newest > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-newest .venv-oldest .venv-lock .constraints-oldest.txt runs
