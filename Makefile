# Works on a fresh clone with Python 3.11+ and make: every target makes .venv first, once.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c '$(NEW_ENOUGH)' 2> /dev/null && echo $$python && break; done)
BIN := .venv/bin
# Where it is set, every process compiles anew what it imports, and every run of the tests their assertions.
unexport PYTHONDONTWRITEBYTECODE
READY := .venv/.ready

.PHONY: demo test lint parity evaluate pocket clean

demo: $(READY)
	$(BIN)/sora-cli generate "a cat surfing" --seconds 20 --res 1280x720 -o demo.mp4 --force

# For two cores: processes of one thread each, and one more than cores, since some tests wait. In the order of their
# names: files of few tests, which would come last, are the longest.
WORKERS ?= 3
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Our Wan networks against those of diffusers and transformers, with the differences that were measured.
parity: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,parity]'
	$(BIN)/python -m pytest tests/parity -s

# Every figure that pocket is held to, beside its target.
evaluate: $(READY)
	$(BIN)/python benchmarks/bar.py

# Pocket from nothing, in the order of what needs what. Every line continues where it was stopped, and a finished one is
# skipped. MINUTES are those of all stages together: five hours of two cores, or half an hour of a GPU with PRESET=mini.
# On a processor two processes beat two threads: PROCESSES=2.
PRESET ?= nano
MINUTES ?= 300
PROCESSES ?= 1
RUNS ?= runs/pocket-$(PRESET)
LAUNCH = $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $(PROCESSES)
TRAIN = $(LAUNCH) -m sora_cli train
share = --steps 10000000 --minutes $(shell awk 'BEGIN { print $(MINUTES) * $(1) / 100 }')
TEXT = --text $(RUNS)/clip
pocket: $(READY)
	$(TRAIN) clip --preset $(PRESET) --out $(RUNS)/clip
	$(TRAIN) vae --preset $(PRESET) $(call share,18) --out $(RUNS)/vae
	$(TRAIN) vae --preset $(PRESET) --init $(RUNS)/vae --details $(call share,10) --out $(RUNS)/details
	$(TRAIN) dit --preset $(PRESET) --coarse $(TEXT) --vae $(RUNS)/details $(call share,22) --out $(RUNS)/coarse
	$(TRAIN) dit --preset $(PRESET) --init $(RUNS)/coarse $(TEXT) --vae $(RUNS)/details $(call share,36) --out $(RUNS)/dit
	$(TRAIN) vae --preset $(PRESET) --init $(RUNS)/details --decoder-only --zoom 2 $(call share,8) --out $(RUNS)/zoomed
	$(TRAIN) evaluator --out $(RUNS)/evaluator
	$(TRAIN) captioner --out $(RUNS)/captioner
	$(BIN)/python scripts/ship_pocket.py --text $(RUNS)/clip --vae $(RUNS)/zoomed --dit $(RUNS)/dit \
	  --evaluator $(RUNS)/evaluator --captioner $(RUNS)/captioner

$(READY): pyproject.toml
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' \
	  || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist demo.mp4 demo.json demo.safetensors demo.mp4.resume .pytest_cache .mypy_cache .ruff_cache .hypothesis
