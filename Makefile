.PHONY: build test lint bench

build:  ## compile the kernels and install in place
	pip install -e ".[test]"

test:
	pytest

lint:
	ruff check .
	ruff format --check .
	mypy
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | xargs clang-format --dry-run -Werror

bench:
	python benchmarks/bench_nms.py
