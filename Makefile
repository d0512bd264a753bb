# Everyday commands. `make demo` and `make test` need only a fresh clone, Python 3.11 and pip.
PYTHON ?= python3
MANIFEST ?= demo/cohort.csv
# Make splits lists at spaces, so a name with spaces is worked on without them.
space := $(subst ,, )
MANIFEST_WORD = $(subst $(space),|,$(MANIFEST))
IS_DEMO = $(filter demo/cohort.csv,$(MANIFEST_WORD))
ROOT ?= $(subst |,$(space),$(dir $(MANIFEST_WORD)))
STORE ?= $(if $(IS_DEMO),demo/demo.zarr,$(subst |,$(space),$(MANIFEST_WORD:.csv=.zarr)))
RUN ?=
PTBXL ?=
BENCHMARK ?=
PREP ?= $(if $(IS_DEMO),--covariates age_years$(comma)sex)
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

.PHONY: .venv demo demo-cohort prep train eval test test-full test-gpu check format docs bench \
	benchmark clean help

help:
	@echo "make demo                    simulate a hospital, make its cohort and store, train, evaluate"
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

demo: demo-cohort
	$(BIN)/ecgprep build demo/cohort.csv demo/demo.zarr --covariates age_years,sex
	$(BIN)/ecgfit train --store demo/demo.zarr --outdir runs/demo --epochs 25 --overwrite
	$(BIN)/ecgfit eval --store demo/demo.zarr --run runs/demo
	$(BIN)/ecgprep report demo/demo.zarr
	$(BIN)/ecgfit report runs/demo --store demo/demo.zarr
	@echo "hospital: demo  manifest: demo/cohort.csv  store: demo/demo.zarr  run: runs/demo"
	@echo "reports: demo/cohort.report.html  demo/demo.zarr.report.html  runs/demo/report.html"

# A simulated hospital, and the manifest that its task makes of its exports and tables.
demo-cohort: .venv
	@if [ ! -f demo/task.yaml ]; then $(BIN)/ecgprep synth demo --hospital --replace \
		--patients 400 --prevalence 0.4 --seed 1; fi
	$(BIN)/ecgprep index demo/exports -o demo/ecg.csv
	$(BIN)/ecgprep cohort demo/task.yaml --ecg demo/ecg.csv --echo demo/echo.csv \
		--therapy demo/therapy.csv --followup demo/followup.csv --labs demo/labs.csv \
		--patients demo/patients.csv -o demo/cohort.csv

prep: .venv $(if $(IS_DEMO),demo-cohort)
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
