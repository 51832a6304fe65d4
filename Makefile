# Every target sets itself up: a machine needs Python >= 3.11, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test check overhead clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)  ## four simulated instances, round_robin against dualmap, a report
	$(BIN)/dualmap demo $(ARGS)

test: $(STAMP)  ## every test that runs on simulated instances, those with a Ray cluster included
	$(BIN)/pytest -m 'not vllm and not envoy and not browser' $(ARGS)

check: $(STAMP)  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

overhead: $(STAMP)  ## CPU per request and per relayed chunk, nginx as the yardstick
	$(BIN)/python -m loadtest.overhead $(ARGS)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
