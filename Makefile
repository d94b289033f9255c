# Everything runs in .venv beside this file, which the first target that needs it sets up.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
INSTALLED_FROM = pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)

# One thread a test process: two of them share two cores.
ONE = OMP_NUM_THREADS=1

.DELETE_ON_ERROR:
.PHONY: help run test test-phone test-litert check docs docs-check bench bench-peers ort-versions fuzz fuzz-native test-sanitized test-arm clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

run: .venv/installed ## the main job: train a small network on the digits, compress it, report
	@$(BIN)/lilliput compress resnet8:channels=1,width=2 --data digits --pretrain 15 \
	  --size 100kB --latency 0.7x --max-drop 2 --out out/digits

test: .venv/installed ## every test, and every example in a docstring
	@$(ONE) $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile $(TESTS)

test-phone: .phone-venv/installed ## the tests of ExecuTorch files and the tutorial that ends in one, in .phone-venv, which has ExecuTorch (over a gigabyte)
	@$(ONE) .phone-venv/bin/python -m pytest -q --numprocesses 2 tests/export/test_phone.py tests/docs/test_your_network.py

test-litert: .litert-venv/installed ## the tests of LiteRT files and the same tutorial, in .litert-venv, which has LiteRT and its converter
	@$(ONE) .litert-venv/bin/python -m pytest -q -p no:anyio --numprocesses 2 tests/export/test_litert.py tests/docs/test_your_network.py

check: .venv/installed ## style, formatting, types, and the size of the code
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --check --output-format concise .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python tests/test_house.py

docs: .venv/installed-docs ## the documentation, into site/
	@if [ -d docs ]; then NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict && echo 'site/index.html'; \
	else echo 'There is no docs folder, so there is nothing to build.'; fi

docs-check: .venv/installed ## every command and every example of README and docs, run; PAGES=docs/rate.md for some of them
	@$(ONE) $(BIN)/python tests/docs/docs_check.py $(PAGES)

bench: .venv/installed ## every claim of bench/*.py measured on this machine, alone
	@if ls bench/*.py > /dev/null 2>&1; then \
	  set -e; for script in bench/*.py; do echo "$$script"; $(BIN)/python "$$script"; done; \
	else echo 'There is no script in bench, so there is nothing to measure.'; fi

bench-peers: .bench-venv/installed .bench-venv-tf/installed ## the same jobs done by other tools (bench/coverage.py, bench/peers/*.py), in .bench-venv
	@.bench-venv/bin/python bench/coverage.py
	@if ls bench/peers/*.py > /dev/null 2>&1; then \
	  set -e; for script in bench/peers/*.py; do echo "$$script"; .bench-venv/bin/python "$$script"; done; \
	else echo 'There is no script in bench/peers, so there is nothing to compare with.'; fi

ort-versions: .venv/installed ## our operations in the oldest and the newest ONNX Runtime that pip offers for this Python
	@$(BIN)/python tests/ort_versions.py

fuzz: .venv/installed ## the attacks on everything that reads bytes, with many more inputs
	@if [ -d tests/attacks ]; then $(ONE) $(BIN)/python -m pytest -q --hypothesis-profile fuzz tests/attacks; \
	else echo 'There is no tests/attacks folder, so there is nothing to fuzz.'; fi

INPUTS ?= 10000000
SEED ?= 1
SANITIZED = -DALONE -std=c++17 -g -O2 -fsanitize=address,undefined -fno-sanitize-recover=all -Icsrc

fuzz-native: build/fuzz_codec ## the native decoder on INPUTS made-up inputs drawn from SEED, under sanitizers
	@build/fuzz_codec $(INPUTS) $(SEED)

build/fuzz_codec: tests/fuzz_codec.cc csrc/codec.cc csrc/tables.cc $(wildcard csrc/*.h)
	@mkdir -p build
	@$(CXX) $(SANITIZED) tests/fuzz_codec.cc csrc/codec.cc csrc/tables.cc -o $@

CASES ?= 100
KERNELS = cpu conv kernels reference pool binary sparse int4
X86_FLAGS = -DLILLIPUT_X86 -mavx2 -mfma -mavx512f -mavx512bw -mavx512bitalg -mavx512vnni -Wno-maybe-uninitialized
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_RUN ?= qemu-aarch64-static
ARM_FLAGS = -std=c++17 -O2 -ffp-contract=off -DLILLIPUT_ARM -Icsrc

test-sanitized: build/kernels-sanitized ## the native kernels against the portable ones on CASES shapes drawn from SEED, under sanitizers
	@build/kernels-sanitized $(CASES) $(SEED)

test-arm: ## the same for 64-bit ARM, cross-compiled, in an emulator
	@if ! command -v $(ARM_CXX) > /dev/null; then echo 'SKIPPED: there is no $(ARM_CXX) to compile for 64-bit ARM (or ARM_CXX=...)'; \
	elif ! command -v $(ARM_RUN) > /dev/null; then echo 'SKIPPED: there is no $(ARM_RUN) to run what is compiled (or ARM_RUN=...)'; \
	else $(MAKE) --no-print-directory build/kernels-arm && $(ARM_RUN) build/kernels-arm $(CASES) $(SEED); fi

# Every kernel of x86 with all flags at once: what matters here is what they read, not where they run.
build/kernels-sanitized: tests/kernels.cc $(wildcard csrc/*.h csrc/*.cc csrc/*.inc)
	@mkdir -p build/sanitized
	@set -e; for file in $(KERNELS) $(if $(filter x86_64,$(shell uname -m)),$(foreach family,binary sparse int4,$(family)_avx2 $(family)_avx512)); do \
	  case $$file in *_avx*) flags='$(X86_FLAGS)';; *) flags='$(if $(filter x86_64,$(shell uname -m)),-DLILLIPUT_X86)';; esac; \
	  $(CXX) $(SANITIZED) -O0 -ffp-contract=off $$flags -c csrc/$$file.cc -o build/sanitized/$$file.o; done
	@$(CXX) $(SANITIZED) tests/kernels.cc build/sanitized/*.o -pthread -o $@

build/kernels-arm: tests/kernels.cc $(wildcard csrc/*.h csrc/*.cc csrc/*.inc)
	@mkdir -p build
	@$(ARM_CXX) $(ARM_FLAGS) -march=armv8.2-a+dotprod -c csrc/int4_dotprod.cc -o build/int4_dotprod.o
	@$(ARM_CXX) $(ARM_FLAGS) -static tests/kernels.cc $(KERNELS:%=csrc/%.cc) csrc/binary_neon.cc csrc/sparse_neon.cc \
	  build/int4_dotprod.o -pthread -o $@

clean: ## removes what was built and measured; keeps the packages in .venv
	@rm -rf build dist out site .pytest_cache .mypy_cache .ruff_cache .hypothesis .venv/installed* .bench-venv/installed \
	  .phone-venv/installed .litert-venv/installed
	@rm -f src/lilliput/kernels/_native.*.so src/lilliput/kernels/lilliput_ops.*
	@find src tests -name __pycache__ -type d -exec rm -rf {} +

# PyTorch comes first and alone: the version it is pinned to decides what everything after it may bring.
# Python files come and go without a new install; native code does not.
.venv/installed: $(INSTALLED_FROM)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/pip || { echo 'Setting up .venv (some minutes, once)'; $(PYTHON) -m venv .venv; }
	@$(BIN)/$(INSTALL) torch==2.13.0
	@$(BIN)/$(INSTALL) --editable '.[dev]'
	@$(BIN)/$(INSTALL) --no-deps torchvision==0.28.0  # for tests alone: its networks are the reference for ours
	@touch $@

.venv/installed-docs: .venv/installed
	@$(BIN)/$(INSTALL) --editable '.[docs]'
	@touch $@

.phone-venv/installed: $(INSTALLED_FROM)
	@test -x .phone-venv/bin/pip || $(PYTHON) -m venv .phone-venv
	@.phone-venv/bin/$(INSTALL) torch==2.13.0
	@.phone-venv/bin/$(INSTALL) --editable '.[dev,phone]'
	@touch $@

.litert-venv/installed: $(INSTALLED_FROM)
	@test -x .litert-venv/bin/pip || $(PYTHON) -m venv .litert-venv
	@.litert-venv/bin/$(INSTALL) torch==2.13.0
	@.litert-venv/bin/$(INSTALL) --editable '.[dev,litert]'
	@touch $@

.bench-venv/installed: $(INSTALLED_FROM) $(wildcard bench/peers.txt)
	@test -x .bench-venv/bin/pip || $(PYTHON) -m venv .bench-venv
	@.bench-venv/bin/$(INSTALL) torch==2.13.0
	@.bench-venv/bin/$(INSTALL) --editable .
	@test ! -f bench/peers.txt || .bench-venv/bin/$(INSTALL) --no-deps --requirement bench/peers.txt  # they pin other PyTorches
	@touch $@

# TensorFlow 2.16 needs another NumPy than PyTorch, so what stands on it has an environment of its own.
.bench-venv-tf/installed: bench/peers-tf.txt
	@test -x .bench-venv-tf/bin/pip || $(PYTHON) -m venv .bench-venv-tf
	@.bench-venv-tf/bin/pip install --quiet --quiet --disable-pip-version-check --no-deps --requirement bench/peers-tf.txt
	@touch $@
