# Everyday commands. `make demo` and `make test` need only a fresh clone, Python 3.11 and pip.
PYTHON ?= python3
MANIFEST ?= demo/manifest.csv
# Make splits lists at spaces, so a name with spaces is worked on without them.
space := $(subst ,, )
MANIFEST_WORD = $(subst $(space),|,$(MANIFEST))
IS_DEMO = $(filter demo/manifest.csv,$(MANIFEST_WORD))
ROOT ?= $(subst |,$(space),$(dir $(MANIFEST_WORD)))
STORE ?= $(if $(IS_DEMO),demo/demo.zarr,$(subst |,$(space),$(MANIFEST_WORD:.csv=.zarr)))
RUN ?=
PTBXL ?=
BENCHMARK ?=
PREP ?= $(if $(IS_DEMO),--covariates age$(comma)sex)
TRAIN ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
comma := ,

# Checked here, so that the message comes before anything is installed.
ifneq ($(filter benchmark,$(MAKECMDGOALS)),)
ifeq ($(PTBXL),)
$(error PTBXL is not set. Run make benchmark PTBXL=folder with your unpacked PTB-XL 1.0.3)
endif
endif

.PHONY: .venv demo prep train eval test test-full test-gpu check format docs bench benchmark \
	clean help

help:
	@echo "make demo                    simulate a corpus, build its store, train, evaluate"
	@echo "make prep MANIFEST=m.csv     build the store m.zarr"
	@echo "                             [STORE=… ROOT=… PREP='--jobs 4 --covariates age,sex']"
	@echo "make train STORE=m.zarr      train a new numbered run  [RUN=runs/name TRAIN='--epochs 30']"
	@echo "make eval STORE=m.zarr       evaluate the newest run   [RUN=runs/name]"
	@echo "make test                    the tests, in a few minutes"
	@echo "make test-full               the long tests as well"
	@echo "make test-gpu                the tests of GPU behaviour, on a machine that has one"
	@echo "make check                   format, lint, types"
	@echo "make format                  reformat the code and apply the linter's safe fixes"
	@echo "make docs                    build the documentation into site/, readable offline"
	@echo "make bench                   measure speed"
	@echo "make benchmark PTBXL=folder  measure quality on real recordings, from a download of PTB-XL"
	@echo "                             [BENCHMARK='--tasks CD']"
	@echo "make clean                   delete the demo, its run, the built site and .venv"

.venv: .venv/installed

# Each stamp is written last, so an interrupted installation starts over.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[all]'
	@touch $@

.venv/dev: .venv/installed
	$(INSTALL) -e '.[all,dev]'
	@touch $@

demo: .venv
	@if [ ! -f demo/manifest.csv ]; then $(BIN)/ecgprep synth demo --patients 300 --seed 1; fi
	$(BIN)/ecgprep build demo/manifest.csv demo/demo.zarr --covariates age,sex
	$(BIN)/ecgfit train --store demo/demo.zarr --outdir runs/demo --epochs 25 --overwrite
	$(BIN)/ecgfit eval --store demo/demo.zarr --run runs/demo
	@echo "files: demo/xml  manifest: demo/manifest.csv  store: demo/demo.zarr  run: runs/demo"

prep: .venv
	@if [ -n "$(IS_DEMO)" ] && [ ! -f demo/manifest.csv ]; then \
		$(BIN)/ecgprep synth demo --patients 300 --seed 1; fi
	$(BIN)/ecgprep build '$(MANIFEST)' '$(STORE)' --root '$(ROOT)' $(PREP)

train: .venv
	$(BIN)/ecgfit train --store '$(STORE)' $(if $(RUN),--outdir '$(RUN)') $(TRAIN)

eval: .venv
	$(BIN)/ecgfit eval --store '$(STORE)' $(if $(RUN),--run '$(RUN)')

# bash for its `time`, which counts the processes that pytest starts.
test: SHELL := /bin/bash
test: .venv/dev
	@TIMEFORMAT='%lR by the clock, %lU + %lS of CPU time'; \
	time $(BIN)/python -m pytest -m "not full" --numprocesses auto --maxprocesses 8 --dist loadfile

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

.venv/docs: .venv/installed
	$(INSTALL) -e '.[all,docs]'
	@touch $@

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html; it needs no network."

# The packages the benchmarks compare with. Without them, bench/*.py skip them by name.
.venv/bench: .venv/dev
	$(INSTALL) -e '.[all,dev,bench]'
	@touch $@

bench: .venv/bench
	$(BIN)/python bench/prep.py
	$(BIN)/python bench/duplicates.py
	$(BIN)/python bench/cohort.py
	$(BIN)/python bench/readers.py
	$(BIN)/python bench/loader.py
	$(BIN)/python bench/training.py
	$(BIN)/python bench/growth.py

benchmark: .venv/dev
	$(BIN)/python bench/benchmark.py runs/benchmark --ptbxl $(PTBXL) \
		--markdown runs/benchmark/table.md $(BENCHMARK)

clean:
	rm -rf demo runs/demo site .venv
