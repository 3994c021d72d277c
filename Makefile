.PHONY: check test full docs

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
