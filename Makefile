.PHONY: build test lint bench docs

build:  ## compile the kernels and install in place
	pip install -e ".[test]"

test:
	pytest

lint:
	ruff check .
	ruff format --check .
	mypy
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | xargs clang-format --dry-run -Werror

docs:  ## build the site into site/
	pip install -q -e ".[docs]"
	mkdocs build

bench:
	python benchmarks/bench_nms.py
