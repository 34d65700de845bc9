# Everything runs in .venv, made at first use from pyproject.toml and constraints.txt. Needs Python 3.11 or later.
VENV ?= .venv

demo: $(VENV)/.run  ## trains LeNet on Fashion-MNIST
	$(VENV)/bin/lossc train examples/fashion_mnist/lenet_solver.prototxt

test: $(VENV)/.test  ## the tests, but the slow ones
	$(VENV)/bin/python -m pytest

test-all: $(VENV)/.test  ## all tests
	$(VENV)/bin/python -m pytest -m "slow or not slow"

lint: $(VENV)/.dev  ## ruff, mypy and the import rules
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.run  ## times LeNet (beside PyTorch, where that is installed) and the compiler itself
	$(VENV)/bin/python tests/bench/bench_nets.py --nets lenet
	$(VENV)/bin/python tests/bench/bench_startup.py

PEER_PYTHON ?= $(VENV)/bin/python
bench-all: $(VENV)/.run  ## every benchmark, into bench_results/; PEER_PYTHON names interpreters that have the peers
	$(VENV)/bin/python tests/bench/run_all.py --peer-python $(PEER_PYTHON)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find lossc tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: pyproject.toml constraints.txt
	sh .ci/venv $(VENV) -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	sh .ci/venv $(VENV) -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	sh .ci/venv $(VENV) -e '.[dev]'
	touch $@

.PHONY: demo test test-all lint bench bench-all clean
