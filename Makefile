.PHONY: build test lint bench docs

build:  ## compile the kernels and install in place
	pip install -e ".[test]"

test:
	pytest

lint:
	ruff check .
	ruff format --check .
	mypy
	find csrc -regex '.*[.]\(h\|cpp\|cuh\|cu\)' -exec clang-format --dry-run -Werror {} +

docs:  ## build the site into site/; the reference only means that the installation compiles nothing
	SSD_OPS_BACKEND=reference pip install -q -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 mkdocs build

bench:
	python benchmarks/bench_nms.py
