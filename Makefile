.PHONY: check test full docs docs-tests notebooks mutation

FORMS = $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
check:  ## style, types, and the files of the repository's host
	ruff check .
	ruff format --check .
	mypy
	zizmor --offline --quiet --persona=pedantic .github action.yml
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.github-actions action.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms $(FORMS)
	check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

test:  ## the default tests
	pytest

full:  ## every test, with whole matrices and new random examples
	pytest -m full

docs:  ## the site of the documentation, into build/site
	python -m benchmarks.site

DOCS_TESTS = maskpool tests/test_readme.py tests/test_docs.py tests/test_numbers.py tests/test_bug_pages.py tests/test_site.py tests/pads
docs-tests:  ## examples of docstrings, links, numbers, the code and commands of every page, and the site in a browser
	pytest -m full $(DOCS_TESTS)

notebooks:  ## examples/*.ipynb, from the scripts next to them
	python -m benchmarks.notebooks

SAMPLE ?= 120
SEED ?= 0
mutation:  ## random bugs in the kernels, masks and poolings that no core test sees
	python -m benchmarks.mutation --sample $(SAMPLE) --seed $(SEED)
