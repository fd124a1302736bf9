SHELL := /bin/bash
JOBS ?= $(shell nproc)
# What the variables of a target mean is said by `make help`.
NWB ?=
MINUTES ?= 10
RUNS ?= runs
MODEL ?= models/stream-nano.safetensors
PORT ?= 8080
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 30
# Not ?=: make itself knows a LINT.
LINT := changed

configure = cmake -Wno-dev --log-level=WARNING $(1) >/dev/null
BUILD := cmake --build
CTEST := ctest --output-on-failure -j $(JOBS)
CORTEX := build/release/apps/cortex
CORTEX_TRAIN := build/release/apps/cortex-train
SOURCES = git ls-files -co --exclude-standard --deduplicate -- '*.h' '*.cpp' '*.cu' '*.cuh'

.DEFAULT_GOAL := help
.PHONY: help light build demo install test test-fast test-gpu train-xs train-s train-m serve bench \
        bench-kernels bench-gpu sanitize-gpu reproduce-mc-maze lint format format-check \
        asan tsan cuda-build fuzz-smoke check-all clean

help:  ## This list
	@echo "Cortex-Engine: spikes in, hand velocity out, before the deadline."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  JOBS=n          build and test jobs (default: the number of cores)"

light:  ## Install what the runtime needs and build cortex alone (no LibTorch)
	@scripts/install.sh light
	@$(call configure,--preset light)
	@$(BUILD) build/light -j $(JOBS)

build:  ## Install everything and build cortex, cortex-train and the tests
	@scripts/install.sh full
	@$(call configure,--preset release)
	@$(BUILD) build/release -j $(JOBS)

install: light  ## Install cortex, libcortex and its headers under PREFIX=/usr/local
	@cmake --install build/light --prefix $(PREFIX)

demo: light  ## Simulate, serve and decode in real time for 20 s (SEED=n, DURATION=n)
	@CORTEX=build/light/apps/cortex scripts/demo.sh

test: build  ## Build all and run every test
	@$(CTEST) --test-dir build/release

test-fast:  ## The tests labelled fast, without LibTorch
	@scripts/install.sh full
	@$(call configure,--preset release -B build/fast -DCORTEX_TRAIN=OFF)
	@$(BUILD) build/fast -j $(JOBS)
	@$(CTEST) --test-dir build/fast -L fast

cuda-build:
	@$(call configure,--preset cuda $(CUDA_FLAGS))
	@$(BUILD) build/cuda -j $(JOBS)

test-gpu: cuda-build  ## The CUDA tests, on a machine with a GPU; then with the sm_80 code, through its PTX
	@$(CTEST) -j 1 --test-dir build/cuda -L gpu
	@$(call configure,--preset cuda -B build/cuda-ptx -DCORTEX_CUDA_ARCHS=80-virtual)
	@$(BUILD) build/cuda-ptx -j $(JOBS) --target kernels_cuda_test engine_cuda_test
	@$(CTEST) -j 1 --test-dir build/cuda-ptx -L gpu

train-xs: PRESET := stream-xs
train-s: PRESET := stream-s
train-m: PRESET := stream-m
train-xs train-s train-m: build
	@scripts/train.sh $(PRESET)
train-xs:  ## Train stream-xs on NWB=file, or on a simulated session (MINUTES=10)
train-s:  ## Train stream-s, likewise
train-m:  ## Train stream-m, likewise
export NWB MINUTES RUNS CORTEX CORTEX_TRAIN

serve: light  ## Serve MODEL=file on 127.0.0.1, PORT=8080
	@build/light/apps/cortex serve --model $(MODEL) --port $(PORT)

reproduce-mc-maze: build  ## Download MC_Maze from DANDI (once) and print the decoders' table on it
	@CORTEX=$(CORTEX) CORTEX_TRAIN=$(CORTEX_TRAIN) scripts/reproduce_mc_maze.sh

bench:  ## Time decoders against the machine's ceilings and against peers, write BENCHMARKS.md
	@JOBS=$(JOBS) scripts/bench.sh

bench-kernels: cuda-build  ## Time the CUDA kernels beside PyTorch's and Triton's, on a machine with a GPU
	@python3 benchmarks/gpu/run.py --build build/cuda --parts kernels

sanitize-gpu: cuda-build  ## compute-sanitizer over the CUDA kernels' tests, on a machine with a GPU (a quarter of an hour)
	@python3 benchmarks/gpu/run.py --build build/cuda --parts sanitizer

bench-gpu: cuda-build  ## Kernels, windows and streams on a GPU beside PyTorch, into benchmarks/results
	@python3 benchmarks/gpu/run.py --build build/cuda

format:  ## Format every C++ file in place
	@scripts/install.sh check
	@$(SOURCES) | xargs clang-format -i

format-check:
	@$(SOURCES) | xargs clang-format --dry-run --Werror

lint:  ## clang-tidy on the files that differ from HEAD (LINT=all: on every file)
	@scripts/install.sh check
	@$(call configure,--preset debug)
	@JOBS=$(JOBS) scripts/lint.sh $(LINT)

asan:
	@$(call configure,--preset asan)
	@$(BUILD) build/asan -j $(JOBS)
	@$(CTEST) --test-dir build/asan

tsan:
	@$(call configure,--preset tsan)
	@$(BUILD) build/tsan -j $(JOBS)
	@scripts/without_aslr.sh $(CTEST) --test-dir build/tsan

fuzz-smoke:
	@$(call configure,--preset fuzz)
	@$(BUILD) build/fuzz -j $(JOBS)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh build/fuzz

check-all:  ## Format, sanitizers, fuzzers (FUZZ_SECONDS=30), CUDA for every architecture, lint
	@scripts/install.sh check
	@$(MAKE) --no-print-directory format-check
	@$(MAKE) --no-print-directory asan
	@$(MAKE) --no-print-directory tsan
	@$(MAKE) --no-print-directory fuzz-smoke
	@$(MAKE) --no-print-directory cuda-build
	@$(MAKE) --no-print-directory lint LINT=all
	@echo "check-all: clean"

clean:  ## Remove build/
	@rm -rf build
