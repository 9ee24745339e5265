# Everything candor does from a clone. Needs GNU make, Python >= 3.11 and a package index; brings its own uv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
UV := $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),.venv/uv/bin/uv)

# What the stages take: `make reproduce DATA=path EPOCHS=1 LIMIT=2000`, `make serve ARGS="--port 9000"`, `make serve GPU=1`.
ARGS ?=
PYTEST_ARGS ?=
EPOCHS ?=
LIMIT ?=
DATA ?= ../shared/data
OUT ?= runs/$(if $(EPOCHS)$(LIMIT),small,default)
RUNTIME := $(if $(GPU),gpu,cpu)
ENGINE ?= docker
IMAGE_FORMAT := $(if $(findstring podman,$(ENGINE)),--format docker) # or the image's health check is left out
COMPOSE ?= docker compose
SERVE := .venv/serve$(if $(GPU),-gpu)
DEV := .venv/dev

.PHONY: help serve test engines check format openapi fuzz reproduce bench requirements image sbom tour clean

help: ## List what make can do
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

serve: $(SERVE)/.ready ## Serve the bundle over HTTP (ARGS="--help" for options, GPU=1 for the CUDA runtime)
	@echo "==> candor serve $(ARGS)"
	@exec $(SERVE)/bin/candor serve $(ARGS)

test: $(DEV)/.ready ## Run the tests (PYTEST_ARGS="-k name")
	@echo "==> pytest $(PYTEST_ARGS)"
	@$(DEV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

engines: .venv/milvus/.ready ## Install the Milvus server that the tests of it run (Linux on x86-64)

check: $(DEV)/.ready ## Check format, lint, types and the direction of imports
	@echo "==> ruff format --check"
	@$(DEV)/bin/ruff format --check .
	@echo "==> ruff check"
	@$(DEV)/bin/ruff check .
	@echo "==> mypy --strict"
	@$(DEV)/bin/mypy
	@echo "==> lint-imports"
	@$(DEV)/bin/lint-imports

format: $(DEV)/.ready ## Rewrite the code in the format that check asks for
	@$(DEV)/bin/ruff check --fix .
	@$(DEV)/bin/ruff format .

openapi: $(DEV)/.ready ## Write openapi.json, the description of the HTTP API
	@$(DEV)/bin/python -m service.document openapi.json

fuzz: $(DEV)/.ready ## Ask a server what its description allows and forbids (ARGS="--examples 500 --seed 1")
	@echo "==> tests.service.protocols.fuzz $(ARGS)"
	@$(DEV)/bin/python -m tests.service.protocols.fuzz $(ARGS)

reproduce: $(DEV)/.ready ## Train, evaluate and export a bundle from images (DATA, OUT, EPOCHS, LIMIT)
	@echo "==> candor reproduce: $(DATA) -> $(OUT)"
	@$(DEV)/bin/candor reproduce --data $(DATA) --out $(OUT) \
		$(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

bench: $(DEV)/.ready ## Measure the server beside a bare loop of decode and inference (DATA, ARGS)
	@echo "==> benchmarks.serving: $(DATA) $(ARGS)"
	@$(DEV)/bin/python -m benchmarks.serving --data $(DATA) $(ARGS)

image: ## Build the container image (GPU=1 for CUDA, RUNTIME=milvus; ENGINE=podman)
	$(ENGINE) build $(IMAGE_FORMAT) --build-arg RUNTIME=$(RUNTIME) --tag candor:$(RUNTIME) .

sbom: .venv/sbom/.ready ## Write what the CPU image is made of as CycloneDX to build/sbom.json
	@mkdir -p build
	@.venv/sbom/bin/cyclonedx-py requirements --output-reproducible --output-file build/sbom.json requirements/image-cpu.txt
	@echo "==> build/sbom.json"

tour: $(DEV)/.ready ## Start the stack of compose, use it, break it, restart it (COMPOSE=podman-compose, ARGS)
	@$(DEV)/bin/python -m tests.deploy.tour --compose "$(COMPOSE)" $(ARGS)

clean: ## Remove environments and caches, never data or bundles
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# --- Environments: made once, made again when their pins change ------------------------------------------------------

.venv/uv/bin/uv:
	@echo "==> Installing uv into .venv/uv"
	@$(PYTHON) -m venv .venv/uv
	@.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/build.txt

.venv/serve/.ready: requirements/serve-cpu.txt
.venv/serve-gpu/.ready: requirements/serve-gpu.txt
.venv/dev/.ready: requirements/dev.txt

# Tools that share nothing with candor: a server for tests, and what writes the list of parts.
.venv/milvus/.ready: requirements/milvus-server.txt
.venv/sbom/.ready: requirements/sbom.txt
.venv/milvus/.ready .venv/sbom/.ready: requirements/build.txt | $(UV)
	@echo "==> Making the environment $(@D)"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	@$(UV) pip sync --quiet --python $(@D) --require-hashes $(filter-out %/build.txt,$^)
	@touch $@

.venv/%/.ready: pyproject.toml requirements/build.txt | $(UV)
	@echo "==> Making the environment .venv/$*"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/$*
	@$(UV) pip sync --quiet --python .venv/$* --require-hashes $(filter-out %/build.txt,$(filter requirements/%,$^))
	@$(UV) pip install --quiet --python .venv/$* --no-deps --build-constraints requirements/build.txt --editable .
	@touch $@

# --- Pins ------------------------------------------------------------------------------------------------------------

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --custom-compile-command "make requirements" $(if $(UPGRADE),--upgrade)

requirements: | $(UV) ## Compile requirements/*.txt from pyproject.toml (UPGRADE=1 moves every pin)
	$(COMPILE) --group build --output-file requirements/build.txt
	$(COMPILE) pyproject.toml --extra cpu --extra postgresql --extra milvus --extra otel --extra train --group dev --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --extra cpu --extra postgresql --extra milvus --extra otel --output-file requirements/serve-cpu.txt
	@cp requirements/serve-cpu.txt requirements/image-cpu.txt # what is compiled anew keeps the versions that are there
	$(COMPILE) pyproject.toml --extra cpu --extra postgresql --extra otel --output-file requirements/image-cpu.txt
	$(COMPILE) pyproject.toml --extra gpu --extra postgresql --extra milvus --extra otel --output-file requirements/serve-gpu.txt
	$(COMPILE) pyproject.toml --extra cpu --extra train --output-file requirements/train.txt
	$(COMPILE) --group sbom --output-file requirements/sbom.txt
	$(COMPILE) --group milvus-server --output-file requirements/milvus-server.txt
