.PHONY: check test full docs mutation

check:  ## style and types
	ruff check .
	ruff format --check .
	mypy

test:  ## the default tests
	pytest

full:  ## every test, with whole matrices and new random examples
	pytest -m full

docs:  ## examples of docstrings, links to files, and the code and commands of README.md
	pytest -m full maskpool tests/test_readme.py tests/test_docs.py

SAMPLE ?= 120
SEED ?= 0
mutation:  ## random bugs in the kernels, masks and poolings that no core test sees
	python -m benchmarks.mutation --sample $(SAMPLE) --seed $(SEED)
