# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v) 2>/dev/null)) python3)
VENV ?= .venv
BIN = $(VENV)/bin
FUZZ_SECONDS ?= 300

export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: install ## four pretend hospitals arrive one after another: train, evaluate, write the report
	$(BIN)/python run_sim.py run configs/quickstart.yaml

test: install ## the tests; beside them those of a real deployment, which mostly wait
	@export OMP_NUM_THREADS=1; log=$$(mktemp) && trap 'kill $$pid 2>/dev/null; rm -f $$log' EXIT; \
	$(BIN)/python -m pytest -m deployed > $$log 2>&1 & pid=$$!; \
	$(BIN)/python -m pytest -m "not deployed" --durations=20; code=$$?; \
	wait $$pid || code=$$?; cat $$log; exit $$code

fuzz: install ## feed every reader what nobody would write, for FUZZ_SECONDS (300); a finding is printed, exit code 1
	$(BIN)/python -W ignore -m tests.fuzz --seconds $(FUZZ_SECONDS)

check: install ## style, types, and the layer test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: install ## the quick benchmarks: overhead, cost of the policies, scale of the index, what sketches give away
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/policy_cost.py
	$(BIN)/python benchmarks/index_scale.py
	$(BIN)/python benchmarks/leakage.py

bench-gpu: install ## all that concerns a GPU, in under 8 minutes: throughput, floor, sites per GPU, quickstart's wall time
	$(BIN)/python benchmarks/gpu.py

studies: install ## the long ones (hours): which memory forgets least, and whether the global index pays
	$(BIN)/python benchmarks/memory_order.py
	$(BIN)/python benchmarks/global_index.py --final --variants all

keys: ## certificates and keys of a real federation, in keys/: make keys HOST=fleet.example.org SITES="east west"
	@HOST="$(HOST)" SITES="$(SITES)" RENEW="$(RENEW)" sh docs/deploy/keys.sh keys

install: $(VENV)/.installed ## the virtual environment with everything that requirements.txt pins

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

clean: ## remove the runs and the virtual environment
	rm -rf runs $(VENV)
	@echo "prepared cases and pretend hospitals stay in $${SITESTREAM_CACHE:-$$HOME/.cache/sitestream}"

.PHONY: help run test fuzz check bench bench-gpu studies keys install clean
.DEFAULT_GOAL := help
