"""`sora-cli encode VIDEO`: a video in, its latents out."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import geometry, media, registry
from sora_cli.cli import options
from sora_cli.cli.inputs import InputSpec
from sora_cli.cli.jobs import Job, Loader
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.registry import Entry
from sora_cli.shot import MOST_FRAMES, check_range
from sora_cli.storage import latent_file

if TYPE_CHECKING:
    from torch import Tensor

    from sora_cli.pipelines.codec import Codec


@options.flattened
def encode(
    video: options.VideoArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file; by default VIDEO's name with .safetensors.")
    ] = None,
    model: options.ModelOption = "pocket",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
    *,
    reading: options.Input,
    compute: options.Compute,
) -> list[Job]:
    """Encode a video as latents, for `decode` or to train on."""
    spec, entry = InputSpec(name=video, **vars(reading)), registry.entry(model)
    record = {"verb": "encode", "model": entry.name, "reading": {**vars(spec), "name": ""}, **compute.asked}
    target = Target(name=str(output or named_after(video)), suffixes=(".safetensors",), force=force, metadata=False,
                    as_json=as_json, asked=record, sources=(video,))  # fmt: skip
    return [Job(target, entry, compute, options.Showing(quiet=quiet, debug=debug), partial(check, spec),
                partial(write, spec), roles=("vae",))]  # fmt: skip


def check(spec: InputSpec, target: Target) -> None:
    """Refuse a bad request before torch is loaded."""
    if Path(spec.name).suffix.lower() == ".safetensors":
        raise SoraError(f"{spec.name} is not a video; if it holds latents, `sora-cli decode` makes a video of them")
    spec.check()
    if target.stream:
        raise SoraError("latents need a name; give -o NAME.safetensors")
    target.check()


def write(spec: InputSpec, target: Target, loader: Loader, screen: Screen) -> None:
    """The latents of a video in a file."""
    started, video = time.perf_counter(), spec.name
    with target.held(), spec.open(screen) as source:
        header = begin(spec, source, loader.job.entry, screen)
        made, count = make(source, header, loader.codec(header.canvas), screen)
        if header.video and header.video != weights.hash_of(Path(video)):
            raise Failed(f"{video} changed while it was read; encode it again")
        header = replace(header, frames=count)
        target.check_files()  # what has come meanwhile
        latent_file.save(target.path, made, header)
    record = {"output": target.name, "frames": header.frames, "width": header.width, "height": header.height,
            "fps": header.fps, "latents": header.latents, "wall": round(time.perf_counter() - started, 3)}  # fmt: skip
    screen.made(record, target.as_json)


def named_after(video: str) -> Path:
    """`films/clip.mov` -> clip.safetensors, `frame%05d.png` -> frame.safetensors; SoraError for a stream."""
    if video == media.STREAM:
        raise SoraError("latents of a stream need a name; give -o NAME.safetensors")
    return Path((re.sub(r"%0?\d?d", "", Path(video).stem) or "images") + ".safetensors")


def begin(spec: InputSpec, source: media.Source, entry: Entry, screen: Screen) -> latent_file.Header:
    """What the latents of a source say of themselves but for its length, which nobody knows yet; SoraError if
    it cannot be encoded. H.264 has no odd sides, so they are rounded up, and decoding ends at even ones."""
    seen, why = source.format.seen, "sides must be even" if source.format.pixel_aspect == 1 else "pixels are not square"
    width, height = (n + n % 2 for n in seen)
    if (width, height) != source.format.size:
        screen.note(f"{why}: {source.format.width}x{source.format.height} is taken as {width}x{height}")
    file, own = Path(spec.name), not spec.changed  # at another size or rate it is another video
    header = latent_file.Header.of(
        entry,
        width=width,
        height=height,
        fps=source.format.fps,
        frames=1,
        shot=latent_file.carried(source.metadata.get("sora", "")) if own else "",
        video=weights.hash_of(file) if own and file.is_file() else "",
    )
    for note in reduced(source, header.canvas):
        screen.note(f"{spec.name}: {note}")
    return header


def reduced(source: media.Source, canvas: geometry.Canvas) -> Iterator[str]:
    """Notes on what encoding loses of a source, beyond the notes of its reader (transparency, HDR, variable rate)."""
    size, small = source.format.seen, canvas.crop
    if small[0] < size[0] or small[1] < size[1]:
        yield f"{size[0]}x{size[1]} is encoded at {small[0]}x{small[1]}; decode enlarges it again"
    if source.format.pix_fmt.endswith("le"):
        yield f"{source.format.pix_fmt.removesuffix('le').rpartition('p')[2]} bits per colour are reduced to 8"
    lost = [*(["sound"] if source.sound else []), *source.left_out]
    if lost:
        yield f"left out: {', '.join(lost)} (latents hold only pictures)"


def make(source: media.Source, header: latent_file.Header, codec: "Codec", screen: Screen) -> "tuple[Tensor, int]":
    """The latents [C, T, h, w] of a video and its number of frames; only the latents grow with its length."""
    import torch

    canvas, count = header.canvas, 0

    def pictures() -> Iterator[media.Frame]:
        nonlocal count
        for count, picture in enumerate(media.to_rgb(source, source.format, canvas.crop), 1):
            check_range("frames", count, 1, MOST_FRAMES)  # as soon as there are more than a video may have
            yield picture

    made = torch.cat(list(codec.encode(screen.track(pictures(), "encode"), canvas)), 1)
    return made, count
