# make reproduce            the whole study, sized for an hour, from nothing, into reports-cpu/ (PROFILE=smoke or gpu: reports-smoke/, reports-gpu/)
# make reproduce PROFILE=full    the committed report in reports/ and the outputs in notebooks/, with more prompts and seeds, in about five hours
# make check                the fast tests, under three minutes
# make test                 all tests, and every committed notebook executed again at its smallest size and compared
# make lint                 ruff's checks and format, as pyproject.toml has them
# make lock                 requirements.lock, anew from pyproject.toml

PYTHON ?= python3.11
PROFILE ?= cpu
# The committed report is that of the profile full; the others have folders of their own, which git ignores.
KEPT := $(if $(filter full,$(PROFILE)),--output reports --keep)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
# Two files at a time, the longest first.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: reproduce check test lint lock

reproduce: $(READY)
	$(BIN)/python -m lab run --profile $(PROFILE) $(KEPT)

check: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow" tests

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) notebooks tests --nbval-lax --nbval-current-env --nbval-cell-timeout=900

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The file .ready is made last: an environment whose making was interrupted has none, and is made anew.
$(READY): requirements.lock
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not there: install Python 3.11, or name one with PYTHON=..." >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $@

# Builds made for one accelerator are left out of the lock, and their suffixes: each machine takes its own build of one version.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --editable ".[study,cluster,compbench,test]"
	{ echo '# Python 3.11. All that pyproject.toml asks for, with its extras, and what that needs; written by "make lock".'; \
	  .venv-lock/bin/python -m pip freeze --exclude-editable | grep -v -E '^(nvidia|cuda|triton)' | sed -E 's/\+[A-Za-z0-9.]+$$//'; \
	} > requirements.lock
	rm -rf .venv-lock
