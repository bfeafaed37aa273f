# make quality, make test: what a change must pass.
.PHONY: quality format test

quality:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

test:
	pip install -e '.[test]'
	pytest
