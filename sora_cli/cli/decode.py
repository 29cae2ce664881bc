"""`sora-cli decode LATENTS`: latents in, a video out."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import geometry, latents, media, weights
from sora_cli.cli.options import (
    DebugOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    ForceOption,
    JsonOption,
    QuietOption,
)
from sora_cli.cli.outputs import check_output
from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError
from sora_cli.shot import check_range

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Wanted:
    """A video to write: which frames of the latents, how large, how fast."""

    path: Path
    frames: range
    size: tuple[int, int]
    fps: float
    shot: str


def decode(
    source: Annotated[Path, typer.Argument(metavar="LATENTS", help="A file that `encode` wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The video (LATENTS' name unless told).")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only frames A to B-1; only those are decoded.")
    ] = None,
    res: Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels, not the original one.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second, not the original ones.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which weights to use (those LATENTS name unless told).")
    ] = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Turn latents into a video."""
    started = time.perf_counter()
    header = latents.read_header(source)
    chosen = parse_frames(frames, header.frames)
    path = output or Path(source.stem + (".mp4" if len(chosen) > 1 else ".png"))
    wanted = Wanted(path, chosen, parse_size(res, header), parse_fps(fps, header), shot_for(chosen, header))
    check(source, header, wanted, model or header.model, force)

    from sora_cli.codec import Codec

    with Screen(quiet) as screen:
        codec = Codec.of(model or header.model, str(device), str(dtype))
        write(screen.track(codec.decode(source, chosen), "decode", len(chosen)), header, wanted)
    told = {"output": str(path), "frames": len(chosen), "width": wanted.size[0], "height": wanted.size[1],
            "fps": wanted.fps, "wall": round(time.perf_counter() - started, 3)}  # fmt: skip
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else str(path))


def parse_frames(text: str | None, total: int) -> range:
    """`10:20` -> range(10, 20), where either end may be left out; SoraError if not all of it is there."""
    if text is None:
        return range(total)
    match = re.fullmatch(r"\s*(\d{0,9})\s*:\s*(\d{0,9})\s*", text, re.ASCII)
    if not match:
        raise SoraError(f"--frames {text!r} is not FIRST:END, for example 10:20")
    first, end = int(match[1] or 0), int(match[2] or total)
    if not first < end <= total:
        raise SoraError(f"--frames {text} is not within the video, whose {total} frames are 0:{total}")
    return range(first, end)


def parse_size(res: str | None, header: latents.Header) -> tuple[int, int]:
    return (header.width, header.height) if res is None else geometry.parse_res(res)


def parse_fps(fps: float | None, header: latents.Header) -> float:
    if fps is None:
        return header.fps
    check_range("--fps", fps, 1, 120)
    return fps


def shot_for(chosen: range, header: latents.Header) -> str:
    """The shot to write into the video: that of the latents, where all of them are shown."""
    return latents.carried(header.shot) if len(chosen) == header.frames else ""


def check(source: Path, header: latents.Header, wanted: Wanted, model: str, force: bool) -> None:
    """All that can be refused without torch."""
    weights.entry(model)
    latents.check_vae(source, header, model)
    if wanted.path.suffix.lower() == ".png" and len(wanted.frames) > 1:
        raise SoraError(f"{wanted.path} is an image but {len(wanted.frames)} frames are asked; --frames 0:1 is one")
    check_output(wanted.path, (".mp4", ".png"), force)
    weights.verify(weights.entry(model))


def write(frames: "Iterator[np.ndarray]", header: latents.Header, wanted: Wanted) -> None:
    """The one place where frames go out."""
    tags = {"sora": wanted.shot} if wanted.shot else {}
    if wanted.path.suffix.lower() == ".png":
        return media.write_image(wanted.path, next(frames), wanted.size, tags)
    source = header.canvas.crop_width, header.canvas.crop_height
    with media.VideoWriter(wanted.path, wanted.size, wanted.fps, source, tags) as writer:
        for frame in frames:
            writer.write(frame)
