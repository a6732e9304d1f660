# Two commands do everything from nothing but Python and make, their own set-up included:
#
#     make demo     watch VSGD, ConstantVSGD, AdamW and SGD train the same network on real data
#     make test     run the tests
#     make docs     build the documentation: site/index.html, which opens without a server and a network
#     make gpu      on a machine with a GPU: the tests of its kernels, then every optimizer's step against AdamW's
#
# `make lint types doctest timm` are what CI checks besides; `make docs-serve` shows the documentation while you write it;
# `make kernels` compiles the rules again after a change to one; `make clean` starts over.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# What the compiled kernels are made from: where one of these is newer, the editable install is made again.
RULES  := $(wildcard src/varigrad/*.py) src/varigrad/engine/c.py $(wildcard src/varigrad/engine/*.c) src/varigrad/engine/trace.py src/varigrad/engine/rule.py

.DEFAULT_GOAL := help
.PHONY: help demo test docs docs-serve gpu slow timm kernels lint types doctest clean

help:
	@sed -n 's/^#     /  /p' Makefile

# The environment is made once and made again only when what it is made from changes. torch comes first and
# alone, so that nothing else's requirement can choose another build of it. Ensurepip may be missing on Debian's
# Python: then the message of `python3 -m venv` says which package to install.
$(READY): pyproject.toml constraints.txt setup.py $(RULES)
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; a few minutes with a cold download cache) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "varigrad needs Python 3.10 or newer; try make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  torch ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@echo "  varigrad and the development tools ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "  ready."

demo: $(READY)
	@echo "Training one network on scikit-learn's handwritten digits with each optimizer ..."
	$(BIN)/varigrad compare --out demo

test: $(READY)
	@echo "Running the tests ..."
	$(BIN)/python -m pytest -n 2 --quiet

gpu: $(READY)
	$(BIN)/varigrad doctor
	$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch finds no GPU here")'
	$(BIN)/python -m pytest --quiet tests/battery tests/contract tests/engine tests/test_monitor.py
	mkdir -p build/gpu
	$(BIN)/varigrad bench --device cuda --shapes resnet50,gpt2,small --ways fused,foreach --json build/gpu/step-time.json --png build/gpu/step-time.png

kernels: $(READY)
	$(BIN)/python setup.py --quiet build_ext --inplace

slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout 0

# Beside the environment, not in it: torchvision, which timm needs, is built for CUDA on PyPI. Where torch is not, no
# other package that finds such a torchvision can be imported.
timm: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade --target build/timm timm torchvision
	PYTHONPATH=build/timm $(BIN)/python -m pytest --quiet tests/integrations/test_timm.py tests/integrations/test_examples.py tests/docs/test_pages.py

docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: $(READY)
	$(BIN)/mkdocs build --quiet
	@echo "Wrote site/index.html"

docs-serve: $(READY)
	$(BIN)/mkdocs serve

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

doctest: $(READY)
	$(BIN)/python -m pytest --quiet --doctest-modules src

clean:
	rm -rf $(VENV) build dist demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
