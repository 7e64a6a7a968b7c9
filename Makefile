# `make demo` and `make test` set up what they need by themselves (.venv, packages) and may be run again.

PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
OUT := footfall-demo

.PHONY: demo test lint docs gallery clean python

demo: python
	@$(PYTHON) .ci/bootstrap.py demo
	.venv/bin/footfall demo --out $(OUT)

test: python
	@$(PYTHON) .ci/bootstrap.py dev
	.venv/bin/python -m pytest -m "not slow"

lint: python
	@$(PYTHON) .ci/bootstrap.py dev
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

docs: python
	@$(PYTHON) .ci/bootstrap.py dev
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

gallery: python
	@$(PYTHON) .ci/bootstrap.py dev
	PYTHONPATH=. .venv/bin/python benchmarks/gallery.py docs/pictures

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache

python:
	@test -n "$(PYTHON)" || { echo "footfall needs Python 3.11 or later, and none was found on PATH." \
		"Install one (e.g. apt-get install python3.11 python3.11-venv), then run the same command." >&2; exit 2; }
