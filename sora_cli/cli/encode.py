"""`sora-cli encode VIDEO`: a video in, its latents out."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import latents, media, weights
from sora_cli.cli.options import (
    DebugOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    ForceOption,
    JsonOption,
    ModelOption,
    QuietOption,
)
from sora_cli.cli.outputs import check_output
from sora_cli.cli.screen import Screen
from sora_cli.errors import Failed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def encode(
    video: Annotated[Path, typer.Argument(help="What to encode: any video that ffmpeg reads.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The latents (VIDEO's name unless told).")
    ] = None,
    model: ModelOption = "pocket",
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn a video into latents, which `decode` turns back and generation can go on from."""
    started = time.perf_counter()
    path = output or Path(video.stem + ".safetensors")
    check_output(path, (".safetensors",), force)
    weights.verify(weights.entry(model))
    header = header_for(video, model)
    with Screen(quiet) as screen:
        made = make(video, header, (str(device), str(dtype)), screen)
        if made.shape[1] != header.latents:
            raise Failed(f"{video} changed while it was read; encode it again")
        latents.save(path, made, header)
    told = {"output": str(path), "frames": header.frames, "width": header.width, "height": header.height,
            "fps": header.fps, "latents": header.latents, "wall": round(time.perf_counter() - started, 3)}  # fmt: skip
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else str(path))


def header_for(video: Path, model: str) -> latents.Header:
    """What the latents of a video file say about themselves; SoraError if it cannot be encoded."""
    found = media.probe(video)
    return latents.Header(
        model=model,
        vae=latents.vae_of(model),
        width=found.width + found.width % 2,  # H.264 has no odd sides, so that decoding ends at even ones
        height=found.height + found.height % 2,
        fps=found.fps,
        frames=found.frames,
        shot=latents.carried(found.metadata.get("sora", "")),
        video=weights.hash_of(video),
    )


def make(video: Path, header: latents.Header, where: tuple[str, str], screen: Screen) -> "Tensor":
    """The latents [C, T, h, w] of a whole video. They grow with its length, by a few kilobytes a frame; what
    is needed to make them does not."""
    import torch

    from sora_cli.codec import Codec

    codec = Codec.of(header.model, *where)
    frames = screen.track(pictures(video), "encode", header.frames)
    return torch.cat(list(codec.encode(frames, header.canvas)), 1)


def pictures(video: Path) -> "Iterator[np.ndarray]":
    """The one place where frames come in."""
    return media.read_frames(video)
