# make quality, make test: what a change must pass; make notebooks: their outputs anew.
.PHONY: quality format test notebooks

quality:
	ruff check .
	ruff format --check .
	lint-imports

format:
	ruff check --fix .
	ruff format .

test:
	pip install -e '.[test]'
	pytest -n 2

notebooks:
	pip install -e '.[notebooks]'
	cd notebooks && jupyter execute --inplace *.ipynb
