PYTHON ?= python3
DATA ?= cifake.zip
BIN := .venv/bin
SIDE_BY_SIDE := --numprocesses 3 --dist loadfile --no-loadscope-reorder
PIP = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock' pyproject.toml

.PHONY: search test test-all test-cluster check docs bench reference install cluster lock clean

search: install  ## from nothing to a report: both architectures on the embedded sample
	$(BIN)/python -m search.run

test: install  ## all tests but the slow ones
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not cluster and not slow"

test-all: install  ## the slow ones too, but not those of the cluster
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not cluster"

test-cluster: install cluster  ## a cluster of three hosts made from network namespaces; needs root; 15 minutes at most
	$(BIN)/python -m pytest -m cluster tests/cluster

check: install docs  ## format, lint, types, imports, documentation
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

docs: install  ## the documentation as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: install  ## short versions of the benchmarks
	$(BIN)/python -m benchmarks.packing
	$(BIN)/python -m benchmarks.chaos --kills 2 --trials 20
	$(BIN)/python -m benchmarks.chaos --kills 2 --trials 20 --infrastructure
	$(BIN)/python -m benchmarks.resuming --trials 100 --rounds 1
	$(BIN)/python -m benchmarks.training --short
	$(BIN)/python -m benchmarks.sharing --short
	$(BIN)/python -m benchmarks.tracking --short
	$(BIN)/python -m benchmarks.growth --short
	$(BIN)/python -m benchmarks.starting --short
	$(BIN)/python -m benchmarks.scale --short
	$(BIN)/python -m benchmarks.search --short
	$(BIN)/python -m benchmarks.replay --short
	$(BIN)/python -m benchmarks.shipping --short

reference: install  ## the reference study in pieces of 9 minutes, each resumes it: make reference DATA=cifake.zip
	PATH="$(CURDIR)/$(BIN):$$PATH" benchmarks/pieces.sh 540 configs/cifake_scratch.yaml --set data.path=$(DATA)

install: .venv/.installed  ## the virtual environment with the pinned dependencies

.venv/.installed: pyproject.toml constraints.txt
	@echo "Installing the pinned packages into .venv; this takes some minutes."
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --requirement constraints.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

cluster: .venv/.cluster  ## the same for a node of a cluster: a study's dependencies and Ray's launcher

.venv/.cluster: pyproject.toml constraints-cluster.txt
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --requirement constraints-cluster.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

lock:  ## pin the dependencies of pyproject.toml with their hashes; pins that still fit stay; needs uv
	$(LOCK) --extra dev --extra database --output-file constraints.txt
	$(LOCK) --extra cluster --constraint constraints.txt --output-file constraints-cluster.txt

clean:  ## delete everything that make has made, except results
	rm -rf .venv build *.egg-info
