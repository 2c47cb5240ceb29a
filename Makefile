PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
SANITY := notebooks/00_sanity_check.ipynb
RESULTS := docs/results/wikihop-smollm2
PROFILE ?= demo
JOBS ?= 2
BENCHES ?= race targets limits embed planner search search_store stream cluster lance

# Tests never ask a model hub; models come from LAGKIT_HOME, or once from the package index.
test test-all: export HF_HUB_OFFLINE = 1

.PHONY: help install demo nightly sanity test test-all bench study carry support codec faults gates pages baselines results gallery lint audit format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

install: $(STAMP)  ## make .venv with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt --upgrade pip # that of Debian 12 finds no set of these versions
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## build logs in a test world and answer its questions under the main variants, results in runs/demo
	$(BIN)/lagkit nightly --profile demo --out runs/demo

nightly: $(STAMP)  ## run PROFILE=testbed|demo|real|paper|test of nightly.yaml against its baselines, results in runs/nightly
	$(BIN)/lagkit nightly --profile $(PROFILE) --out runs/nightly/$(PROFILE) $(if $(DATA),data=$(DATA))

sanity: $(STAMP)  ## run the first notebook on SmolLM2, results in runs/sanity
	$(BIN)/lagkit notebook $(SANITY) runs/sanity
	$(BIN)/lagkit page runs/sanity/$(notdir $(SANITY))
	@echo "Executed notebook, HTML page and metrics.json are in runs/sanity/"

test: $(STAMP)  ## the fast tests, and the first notebook, JOBS=2 at once; fetches two small models once (180 MB)
	$(BIN)/pytest -m "not slow" -n $(JOBS)

test-all: $(STAMP)  ## all tests
	$(BIN)/pytest -n $(JOBS)

bench: $(STAMP)  ## remake docs/results/scale.md; BENCHES="race planner" for some, DATA=folder of MMLU-Pro for long answers
	@for bench in $(BENCHES); do \
		echo "== $$bench"; \
		$(BIN)/python -m benchmarks.$$bench --out benchmarks/results/$$bench.json \
			$$([ $$bench = race ] && echo "$(if $(DATA),--data $(DATA))") || exit; \
	done
	$(BIN)/python -m benchmarks.page

study: $(STAMP)  ## remake docs/results/testbed.md: three test worlds, all variants
	$(BIN)/python -m tools.testbed study testbed out=runs/study --page docs/results/testbed.md

carry: $(STAMP)  ## remake docs/results/carry.md and carried.md: what kept tokens carry, and where (minutes)
	$(BIN)/python -m tools.testbed carry-study plain=data/testbed/carry/plain control=data/testbed/carry/control \
		--page docs/results/carry.md --sites docs/results/carried.md --questions 60

faults: export OMP_NUM_THREADS = 1
faults: $(STAMP)  ## remake docs/results/faults.md: a thousand faults injected into stores, journals and runs (minutes)
	$(BIN)/python -m tests.faults --count 1000 --page docs/results/faults.md

gates: export OMP_NUM_THREADS = 1
gates: $(STAMP)  ## remake docs/results/gates.md: faults planted in the method, and the nightly's gates that fail (minutes)
	$(BIN)/python -m tests.gates --page docs/results/gates.md

pages: $(STAMP)  ## remake the pages of docs/results from their committed rows; measures nothing (seconds)
	$(BIN)/python -m tests.pages

baselines: $(STAMP)  ## accept what PROFILE measures now as its baselines, from three seeds (three runs)
	$(BIN)/lagkit nightly --profile $(PROFILE) --out runs/$(if $(filter demo,$(PROFILE)),demo,nightly/$(PROFILE)) \
		--update-baselines --yes

support: $(STAMP)  ## remake docs/results/support.md: families and models that re-alignment works with
	$(BIN)/lagkit notebook notebooks/10_architectures.ipynb runs/10_architectures
	cp runs/10_architectures/support.md runs/10_architectures/support.json docs/results/

codec: $(STAMP)  ## remake docs/results/codec.md: what logs in fewer bits cost
	$(BIN)/python -m tools.codec $(addprefix docs/results/codec/,testbed.yaml smollm2-float32.yaml smollm2-bfloat16.yaml) \
		--out runs/codec --page docs/results/codec.md --cases 12

results: INTO = $(RESULTS:%/=%)
results: RUN = runs/$(notdir $(INTO))
results: $(STAMP)  ## remake RESULTS=docs/results/wikihop-smollm2 or docs/results/real/own, from DATA=folder if given (hours)
	$(BIN)/lagkit run $(INTO)/run.yaml $(if $(DATA),data=$(DATA)) out=$(RUN)
	cp $(addprefix $(RUN)/,report.md *.csv results.parquet manifest.json report.json) $(INTO)/

gallery: export LAGKIT_PROGRESS = off
gallery: $(STAMP)  ## run all notebooks into runs/gallery (pages that work offline) and docs/gallery (for GitHub)
	@for notebook in $(sort $(filter-out notebooks/_%,$(NOTEBOOKS))); do \
		$(BIN)/lagkit notebook $$notebook runs/gallery/$$(basename $$notebook .ipynb) || exit; \
	done
	$(BIN)/lagkit gallery runs/gallery --copies docs/gallery
	$(BIN)/python -m tools.social

lint: $(STAMP)  ## ruff, types, imports between rooms, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --keep-id --verify $(NOTEBOOKS))

audit: $(STAMP)  ## look the pinned versions up among known vulnerabilities
	$(BIN)/python .ci/audit.py

format: $(STAMP)  ## tidy the code and strip the notebooks' outputs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --keep-id $(NOTEBOOKS))

clean:  ## remove results, caches and the environment
	rm -rf .venv runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
