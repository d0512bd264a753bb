# Everything a user runs daily. `make demo` and `make test` work on a fresh clone with nothing but Python 3.11 and pip.
PYTHON ?= python3
MANIFEST ?= demo/manifest.csv
ROOT ?= $(dir $(MANIFEST))
STORE ?= $(if $(filter demo/manifest.csv,$(MANIFEST)),demo/demo.zarr,$(MANIFEST:.csv=.zarr))
RUN ?=
PTBXL ?=
BENCHMARK ?=
PREP ?= $(if $(filter demo/manifest.csv,$(MANIFEST)),--covariates age$(comma)sex)
TRAIN ?=
BIN := .venv/bin
comma := ,

# Said before anything is installed.
ifneq ($(filter benchmark,$(MAKECMDGOALS)),)
$(if $(PTBXL),,$(error PTBXL is not set: make benchmark PTBXL=folder, the unpacked download of PTB-XL 1.0.3 from PhysioNet))
endif

.PHONY: .venv demo prep train eval test test-full test-gpu check format bench benchmark clean help

help:
	@echo "make demo                          simulate a corpus, build, train, evaluate"
	@echo "make prep MANIFEST=m.csv           build the store m.zarr        [STORE=… ROOT=… PREP='--jobs 4 --covariates age,sex']"
	@echo "make train STORE=m.zarr            train a new numbered run      [RUN=runs/name TRAIN='--epochs 30']"
	@echo "make eval STORE=m.zarr             evaluate the newest run       [RUN=runs/name]"
	@echo "make test / test-full / check      tests / long tests too / format, lint, types"
	@echo "make test-gpu                      the tests of what a GPU does, on a machine that has one"
	@echo "make bench                         measure speed"
	@echo "make benchmark PTBXL=folder        measure quality on real recordings, from a download of PTB-XL  [BENCHMARK='--tasks CD']"

.venv: .venv/installed

# The stamps are written last: an install that was interrupted is begun again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: .venv
	@if [ ! -f demo/manifest.csv ]; then $(BIN)/ecgprep synth demo --patients 300 --seed 1; fi
	$(BIN)/ecgprep build demo/manifest.csv demo/demo.zarr --covariates age,sex
	$(BIN)/ecgfit train --store demo/demo.zarr --outdir runs/demo --epochs 25 --overwrite
	$(BIN)/ecgfit eval --store demo/demo.zarr --run runs/demo
	@echo "files: demo/xml  manifest: demo/manifest.csv  store: demo/demo.zarr  run: runs/demo"

prep: .venv
	@if [ "$(MANIFEST)" = demo/manifest.csv ] && [ ! -f demo/manifest.csv ]; then $(BIN)/ecgprep synth demo --patients 300 --seed 1; fi
	$(BIN)/ecgprep build $(MANIFEST) $(STORE) --root $(ROOT) $(PREP)

train: .venv
	$(BIN)/ecgfit train --store $(STORE) $(if $(RUN),--outdir $(RUN)) $(TRAIN)

eval: .venv
	$(BIN)/ecgfit eval --store $(STORE) $(if $(RUN),--run $(RUN))

test: .venv/dev
	$(BIN)/python -m pytest -m "not full" --numprocesses auto --maxprocesses 8 --dist loadfile

test-full: .venv/dev
	$(BIN)/python -m pytest

test-gpu: .venv/dev
	ECG_DEVICE=cuda $(BIN)/python -m pytest tests/test_device.py

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ecgprep ecgfit ecg_train.py bench

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The packages that are compared with; without them bench/*.py skip them by name.
.venv/bench: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,bench]'
	@touch $@

bench: .venv/bench
	$(BIN)/python bench/prep.py
	$(BIN)/python bench/copies.py
	$(BIN)/python bench/readers.py
	$(BIN)/python bench/loader.py
	$(BIN)/python bench/training.py
	$(BIN)/python bench/growth.py

benchmark: .venv/dev
	$(BIN)/python bench/benchmark.py runs/benchmark --ptbxl $(PTBXL) --markdown runs/benchmark/table.md $(BENCHMARK)

clean:
	rm -rf demo runs/demo .venv
