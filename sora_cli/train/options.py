"""What `sora-cli train` was asked for: one frozen record shared by the three recipes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainOptions:
    """Options common to `train clip`, `train vae` and `train dit`; None means "the preset decides"."""

    preset: str                      # nano | mini | base
    data: str                        # "world", or the folder of a dataset
    steps: int | None                # optimiser steps
    minutes: float | None            # wall-clock budget; whichever of the two ends first
    batch: int | None                # samples per step
    seed: int
    out: Path                        # run folder: checkpoints, log, sheets, curves
    device: str                      # auto | cpu | cuda | mps
    dtype: str                       # auto | float32 | bfloat16
    stage: str = ""                  # clip | vae | dit | ...
    fresh: bool = False              # start over instead of resuming from `out`
    init: Path | None = None         # weights to start from
    decoder_only: bool = False       # VAE: keep the encoder of `init`, so that latents stay what they are
    coarse: bool = False             # DiT: learn the latents without their details, with a smaller network
    text: Path | None = None         # CLIP text tower for the DiT; None: the shipped one
    distil: bool = False             # DiT: bake guidance and the size of steps into the weights of `init`
    compile: bool = False            # fuse the transformer's blocks; a minute for each shape, then twice as fast
    accumulate: int | None = None    # batches a step; None: as the run began, or one for each process
    prefetch: int | None = None      # batches made ahead of time; None: a few on a GPU, none on a CPU
    shard: bool = False              # DiT: spread weights and optimizer states over the processes
    checkpoint_activations: bool = False   # DiT: compute blocks again on the way back, for less memory
    drop_tokens: float = 0.0         # DiT: the share of patch positions that training leaves out of a video
    details: bool = False            # VAE: keep the latents of `init` as they are and learn details beside them
    zoom: int = 1                    # VAE: pixels painted, a side, for each that is read
    vae: Path | None = None          # VAE for the DiT; None: the shipped one
    align: str | None = None         # DiT: off | geometry | clip | MODEL:WEIGHTS of open_clip; None: as the data is

    @property
    def aim(self) -> str:
        """What a middle block is aligned with: of the world its geometry, of other data nothing, unless told."""
        return self.align or ("geometry" if self.data == "world" and not self.distil else "off")

    @property
    def tower(self) -> Path | None:
        """Where the video tower lies that was trained together with `text`, if it is there."""
        return self.text and (self.text if self.text.is_dir() else self.text.parent) / "video.safetensors"

    def record(self) -> str:
        """The options as JSON for a checkpoint's header, without the folders of whoever trained it."""
        plain = {k: v.name if isinstance(v, Path) else v for k, v in asdict(self).items()}
        plain["data"] = Path(self.data).name
        return json.dumps({k: str(v) for k, v in plain.items()})


@dataclass(frozen=True)
class LoraOptions(TrainOptions):
    """Those of `train lora`."""

    model: str = "pocket"            # what is changed
    rank: int = 16                   # of what is added to each matrix
