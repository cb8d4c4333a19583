# Every target does everything on a fresh clone: virtual environment, CPU torch, build, run.
PYTHON ?= python3.11
VENV   ?= .venv
OUT    ?= demo
SRC    ?=
SEED   ?= 0
JOBS   ?= 2
SECONDS ?= 600
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# What the installed package is made of: any change of it rebuilds.
SOURCES := $(shell git ls-files pyproject.toml CMakeLists.txt csrc kernels python 2>/dev/null)

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export MPLBACKEND := Agg

.PHONY: demo test test-all check bench fuzz install wheelhouse format stubs clean

install: $(READY)

$(VENV)/.tools: constraints-cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt torch==2.13.0 numpy
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt scikit-build-core pybind11 cmake ninja
	$(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print('\n'.join(p['dependencies'] + p['optional-dependencies']['test']))" > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -r $(VENV)/requirements.txt
	touch $@

$(READY): $(VENV)/.tools $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps \
	  --force-reinstall -C cmake.define.CHRONOWARD_WERROR=$(if $(CI),ON,OFF) .
	touch $@

demo: $(READY)
	$(BIN)/chronoward demo $(if $(SRC),'$(SRC)') --out $(OUT) --seed $(SEED)

test: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not slow and not peer and not gpu"

test-all: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not gpu"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.hpp')
	$(BIN)/codespell $$(git ls-files ':!:LICENSE')
	cd $(VENV) && bin/python -m mypy --config-file ../pyproject.toml -p chronoward
	$(BIN)/python -m pytest -q tests/house

bench: $(READY)
	$(BIN)/python benchmarks/run.py --quick

# Mutated files into every reader, the core under AddressSanitizer and UBSan. It has a build and a
# small virtual environment of its own, which sees the packages of the other one.
FUZZ     := build/fuzz
FUZZ_BIN := $(FUZZ)/venv/bin/python
LIBRARY   = $(shell $${CXX:-c++} -print-file-name=$(1))

$(FUZZ)/.ready: $(READY)
	$(BIN)/python -m venv --clear --without-pip $(FUZZ)/venv
	site=$$($(FUZZ_BIN) -c "import site; print(site.getsitepackages()[0])") && \
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > $$site/packages.pth && \
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation \
	  --no-deps --target $$site -C build-dir=$(FUZZ)/cmake \
	  -C cmake.define.CHRONOWARD_SANITIZE=ON .
	touch $@

fuzz: $(FUZZ)/.ready
	ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=64:max_allocation_size_mb=1024 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  LD_PRELOAD="$(call LIBRARY,libasan.so) $(call LIBRARY,libstdc++.so)" \
	  $(FUZZ_BIN) -m tests.fuzz.run --seconds $(SECONDS) --seed $(SEED)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.hpp')

stubs: $(READY)
	$(BIN)/python -m tests.house.stubs --write

# For machines without a network: wheels of everything, installed there with
# `pip install --no-index --find-links wheelhouse chronoward`.
wheelhouse: $(READY)
	$(BIN)/python -m pip wheel --quiet -c constraints-cpu.txt -w wheelhouse .

clean:
	rm -rf build dist $(VENV)
