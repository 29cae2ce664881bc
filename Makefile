# Works on a fresh clone with Python 3.11+ and make: every target makes .venv first, once.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c '$(NEW_ENOUGH)' 2> /dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint parity evaluate pocket clean

demo: $(READY)
	$(BIN)/sora-cli generate "a cat surfing" --seconds 20 --res 1280x720 -o demo.mp4 --force

test: $(READY)
	$(BIN)/python -m pytest

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

# Pocket from the shipped weights on, for half an hour on a GPU: the autoencoder, the transformer, which grows to the
# preset's size, and few steps. What was stopped goes on. PRESET=nano keeps the size that two cores can train.
PRESET ?= mini
RUNS ?= runs/pocket-$(PRESET)
TRAIN := $(BIN)/sora-cli train
pocket: $(READY)
	$(TRAIN) vae --init pocket --steps 20000 --minutes 8 --out $(RUNS)/vae
	$(TRAIN) dit --preset $(PRESET) --init pocket --vae $(RUNS)/vae/vae.safetensors --minutes 16 --out $(RUNS)/dit
	$(TRAIN) dit --preset $(PRESET) --init $(RUNS)/dit --vae $(RUNS)/vae/vae.safetensors --minutes 5 --distil --out $(RUNS)/few
	$(BIN)/python scripts/ship_pocket.py --vae $(RUNS)/vae --dit $(RUNS)/few

$(READY): pyproject.toml
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' \
	  || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist demo.mp4 demo.json demo.safetensors demo.mp4.resume .pytest_cache .mypy_cache .ruff_cache .hypothesis
