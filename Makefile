# Two commands are enough: `make demo` and `make test`. Each first builds .venv from the pinned lock.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SOURCES := $(shell git ls-files src callbacks lightning_modules datamodules configs pyproject.toml setup.cfg 2>/dev/null)

export OMP_NUM_THREADS ?= 2

.PHONY: demo test check clean

demo: $(READY)
	$(BIN)/erode compare --config configs/experiment/demo.yaml

test: $(READY)
	$(BIN)/python -m pytest tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --doctest-modules --pyargs erode

# The package is linked file by file (setup.cfg), so a new file needs a new link: any change re-installs it.
$(READY): requirements.lock $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "erode needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
