PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-long test-slow test-services mutants docs check format clean

demo: $(READY)  ## train AWR on CartPole-v1 with tuned settings, in seconds, and write its report
	$(BIN)/rlox train awr --env CartPole-v1 --preset tuned --total-timesteps 20000 --eval-interval 2000 --n-eval-episodes 5
	@echo "The documented defaults, in minutes: $(BIN)/rlox train awr --env CartPole-v1 --total-timesteps 50000 --seed 42"

test: $(READY)  ## the fast tests, in six minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not long"

test-long: $(READY)  ## those that take seconds each: processes that are killed and resumed, policies with known answers
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long

test-slow: $(READY)  ## learning with real budgets
	$(BIN)/python -m pytest -n 2 -m slow

test-services: $(READY)  ## the loggers of Trackio and MLflow, which need older versions of packages, in an environment beside
	$(PYTHON) -m venv $(VENV)/services
	echo "import sys; sys.path.append('$(CURDIR)/$(VENV)/$(shell $(BIN)/python -c 'import sysconfig, os, sys; print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))')')" \
		> $$($(VENV)/services/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	$(VENV)/services/bin/python -m pip install --quiet trackio mlflow
	PYTHONPATH=src:tests $(VENV)/services/bin/python -m pytest tests/test_loggers.py -k "trackio or mlflow"

mutants: $(READY)  ## single-line faults, each of which a test has to notice
	$(BIN)/python scripts/mutants.py

docs: $(READY)  ## the site, in build/docs, without a network; a warning is an error, and examples in docstrings are run
	rm -rf build/docs docs/api/generated
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html -d build/doctrees docs build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b doctest -d build/doctrees docs build/doctest
	@echo "The site is build/docs/index.html."

check: $(READY)  ## format, lint and types; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)  ## fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0  # for CPUs, where pip is set up to find that build
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
