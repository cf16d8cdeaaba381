# Everything the project needs is set up by these targets; see README.md.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RAY := $(VENV)/.ray

.PHONY: run test lint format ui clean bench-overhead bench-capacity \
	bench-e2e bench-kernels bench-calibration bench-tuning \
	bench-ablation bench-farm bench-ray bench-gpu-schedules tune-metaschedule \
	arm-emulator arm-board test-arm test-faults test-ray

run: $(READY)  ## Search for a faster network with the embedded default experiment
	$(BIN)/loopgene run experiments/quickstart.yaml

test: lint  ## Lint, type-check, check the import direction, and run the default tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)  ## Static checks only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

arm-emulator: $(READY)  ## A 64-bit ARM system for QEMU, in .arm-emulator; as root it installs QEMU
	$(BIN)/python -m backends.boards.emulator build

arm-board: arm-emulator  ## A tracker and an emulated board on this machine, until Ctrl-C
	$(BIN)/python -m backends.boards.emulator serve

test-arm: arm-emulator  ## The whole way to a board, on emulated 64-bit ARM
	$(BIN)/python -m pytest -m arm

test-faults: $(READY)  ## Boards that fail in every way, each alone and all in one search
	$(BIN)/python -m pytest -n 2 -m slow tests/backends/rpc tests/engine/test_search_farm.py

test-ray: $(RAY)  ## Searches on Ray workers
	$(BIN)/python -m pytest -m ray

format: $(READY)  ## Rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(READY)  ## Browse the tracked searches at http://127.0.0.1:5000
	$(BIN)/loopgene ui

bench-overhead: $(READY)  ## The engine's own cost per candidate
	$(BIN)/python -m engine.bench.overhead

bench-capacity: $(READY)  ## Capacity checks of 1,000 ResNet-34 candidates
	$(BIN)/python -m engine.bench.capacity

bench-e2e: $(READY)  ## Whole networks against the other compilers
	$(BIN)/python -m engine.bench.e2e

bench-kernels: $(READY)  ## Kernels against the libraries; QUICK=1 for twelve of them
	$(BIN)/python -m engine.bench.kernels $(if $(QUICK),--quick)

bench-calibration: $(READY)  ## Sums of kernels against whole networks
	$(BIN)/python -m engine.bench.calibration

tune-metaschedule: $(READY)  ## MetaSchedule's records for the benchmarks, where they are missing
	$(BIN)/python -m engine.bench.metaschedule $(if $(QUICK),--quick)
	$(BIN)/python -m engine.bench.metaschedule_network

bench-ablation: $(READY)  ## Networks and kernels with one part of the compiler taken away
	$(BIN)/python -m engine.bench.ablation

bench-gpu-schedules: $(READY)  ## The estimate of GPU schedules against what was measured on one
	$(BIN)/python -m engine.bench.gpu_schedules experiments/gpu_schedules_h200.jsonl

bench-tuning: $(READY)  ## Schedules in few measurements, against MetaSchedule's in many
	$(BIN)/python -m engine.bench.tuning

bench-farm: $(READY)  ## Candidates per minute against the number of devices
	$(BIN)/python -m engine.bench.farm

bench-ray: $(RAY)  ## The same search with one and with two Ray workers
	$(BIN)/python -m engine.bench.ray

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(RAY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[ray]"
	touch $@

clean:  ## Remove the virtual environment and caches, keep the runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
