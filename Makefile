PYTHON ?= python3
DATA ?= cifake.zip
BIN := .venv/bin

.PHONY: search test test-cluster check bench reference install cluster clean

search: install  ## from nothing to a result: both architectures on the embedded sample
	$(BIN)/python -m search.run

test: install  ## all tests but those of the cluster
	$(BIN)/python -m pytest -m "not cluster"

test-cluster: install cluster  ## a cluster of three hosts made out of namespaces; needs root, 15 minutes at most
	$(BIN)/python -m pytest -m cluster tests/cluster

check: install  ## format, lint, types, imports
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

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

reference: install  ## the reference study in pieces of 9 minutes, for a GPU lent by the piece: make reference DATA=cifake.zip
	PATH="$(CURDIR)/$(BIN):$$PATH" benchmarks/pieces.sh 540 configs/cifake_scratch.yaml --set data.path=$(DATA)

install: .venv/.installed  ## the virtual environment with the pinned dependencies

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,database]'
	touch $@

cluster: .venv/.cluster  ## the same on a node of a cluster: what a study needs, and Ray's launcher

.venv/.cluster: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster]'
	touch $@

clean:  ## everything that was made, but the results
	rm -rf .venv build *.egg-info
