# Two commands matter: `make quickstart` and `make test`. Everything they need is installed into .venv.

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# For a CPU build of torch where the default index serves CUDA builds: make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
SOURCE ?= recbole

.PHONY: quickstart test check format openapi bench bench-full bench-gpu bench-http clean distclean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

quickstart: $(VENV)/.training ## train on MovieLens-100k and serve it on http://127.0.0.1:8000
	@$(BIN)/python -m deploy.quickstart --source $(SOURCE)

# Processes that share the tests; a file's tests stay together, as they share what is built for them.
TEST_PROCESSES ?= 2

test: $(VENV)/.dev ## every test, on a real Redis
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(VENV)/.dev ## write docs/openapi.json anew
	$(BIN)/python -m service openapi --output docs/openapi.json

# A folder with real histories, as training reads it; without one the row about real histories is left out.
DATA ?=

bench: $(VENV)/.training ## the engine against its peers and its limits, some minutes: make bench DATA=folder
	$(BIN)/python -m deploy.bench goals $(if $(DATA),--data $(DATA))

bench-full: $(VENV)/.training ## the same at every size, hours; goes on where it was interrupted
	$(BIN)/python -m deploy.bench grid

# Without torch and its exporter, prepare the folder elsewhere and carry it here; see docs/benchmarks.md.
GPU_FOLDER ?= var/gpu
TRAINED ?=

bench-gpu: ## the engine on a GPU: answers against the CPU, placement, rates; make bench-gpu TRAINED=artifact DATA=folder
	@test -x $(BIN)/python || $(MAKE) $(VENV)/.training
	@test -d $(GPU_FOLDER) || $(BIN)/python -m deploy.bench.gpu prepare $(GPU_FOLDER) $(if $(TRAINED),--trained $(TRAINED) --data $(DATA))
	$(BIN)/python -m deploy.bench.gpu run $(GPU_FOLDER)

# What serves in `make bench-http`.
ARTIFACT ?= artifacts/movielens-100k-1

bench-http: $(VENV)/.training ## requests/s and latencies over HTTP against the engine alone: make bench-http ARTIFACT=folder
	$(BIN)/python -m deploy.bench_requests $(ARTIFACT)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one with PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.training: pyproject.toml | $(VENV)/bin/python
	@echo "Installing torch and what else training needs into $(VENV): some minutes, most of it downloads"
	$(BIN)/python -m pip install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --editable '.[training]'
	@touch $@

$(VENV)/.dev: $(VENV)/.training
	$(BIN)/python -m pip install --quiet --editable '.[training,dev]'
	@touch $@

clean: ## remove the environment and caches; models and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find models training service deploy tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove them and all trained models, fetched MovieLens data and the embedded Redis' data
	rm -rf artifacts data/movielens-100k var
