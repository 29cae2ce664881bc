"""`sora-cli decode LATENTS`: latents in, a video out."""

import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sora_cli import geometry, media, registry
from sora_cli.cli import options
from sora_cli.cli.jobs import FULL, Job, Loader
from sora_cli.cli.output_job import raw_format
from sora_cli.cli.output_job import written as in_file
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError, counted
from sora_cli.shot import check_range
from sora_cli.storage import latent_file


@dataclass(frozen=True)
class Wanted:
    """What is to be decoded: which frames, at what size and rate, and the shot that they are the whole of, if any."""

    frames: range
    size: media.Size
    fps: float
    shot: str


@options.flattened
def decode(
    source: Annotated[Path, typer.Argument(metavar="LATENTS", help="A file of latents.")],
    output: options.OutputOption = None,
    frames: Annotated[
        str | None, typer.Option(metavar="A:B", help="Decode only frames A to B-1.")
    ] = None,
    res: options.ResOption = None,
    fps: Annotated[
        float | None, typer.Option(help="Play the same frames at another rate: faster, or slower.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to decode with; by default the one that LATENTS names.")
    ] = None,
    lossless: options.LosslessOption = False,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
    *,
    compute: options.Decoding,
) -> list[Job]:
    """Decode latents to a video."""
    header = latent_file.read_header(source)
    chosen = parse_frames(frames, header.frames)
    name = output or source.stem + (".mp4" if len(chosen) > 1 else ".png")
    size = geometry.parse_res(res) if res is not None else (header.width, header.height)
    shot = latent_file.carried(header.shot) if len(chosen) == header.frames else ""  # of the whole video
    if fps is not None:
        check_range("--fps", fps, 1, 120)
    wanted = Wanted(chosen, size, header.fps if fps is None else fps, shot)
    entry = registry.entry(maker(source, header) if model is None else model)
    record = {"verb": "decode", "model": entry.name, "frames": [chosen.start, chosen.stop], "size": wanted.size,
            "fps": wanted.fps, **compute.asked}  # fmt: skip
    one = len(chosen) == 1  # and no moving image
    target = Target(name=name, force=force, metadata=False, as_json=as_json, lossless=lossless, asked=record,
                    sized=one or res is not None, timed=one or fps is not None, sources=(str(source),))  # fmt: skip
    roles = ("vae",) if compute.decoder == FULL else (registry.TINY,)
    return [Job(target, entry, compute, options.Showing(quiet=quiet, debug=debug), partial(check, wanted),
                partial(write, source, wanted), roles=roles)]  # fmt: skip


def parse_frames(text: str | None, total: int) -> range:
    """`10:20` -> range(10, 20); either end may be left out. SoraError if it is not within `total` frames."""
    if text is None:
        return range(total)
    match = re.fullmatch(r"\s*(\d{0,9})\s*:\s*(\d{0,9})\s*", text, re.ASCII)
    if not match:
        raise SoraError(f"--frames {text!r} is not FIRST:END, for example 10:20")
    first, end = int(match[1] or 0), int(match[2] or total)
    if not first < end <= total:
        raise SoraError(f"--frames {text} is not within the video, which has {counted(total, 'frame')}: 0:{total}")
    return range(first, end)


def maker(source: Path, header: latent_file.Header) -> str:
    """The model that made the latents; SoraError if it is not registered by name, such as one from a folder."""
    names = registry.names()
    if header.model not in names:
        raise SoraError(f"{source} was made with {header.model}, which is not registered here; known models: "
                        f"{', '.join(names)}; --model hf:OWNER/NAME or --model ./FOLDER names another")  # fmt: skip
    return header.model


def check(wanted: Wanted, target: Target) -> None:
    """Refuse a bad request before torch is loaded."""
    path = target.path
    if target.one_image and len(wanted.frames) > 1:
        raise SoraError(f"{path} is an image but {len(wanted.frames)} frames are requested; use --frames 0:1 for one, "
                        f"or {path.stem}%05d.png for all")  # fmt: skip
    target.check()
    target.check_format(raw_format(target.name, wanted.size, wanted.fps))


def write(source: Path, wanted: Wanted, target: Target, loader: Loader, screen: Screen) -> None:
    """The wanted frames of a file of latents, decoded and written one by one."""
    started, job, header = time.perf_counter(), loader.job, latent_file.read_header(source)
    latent_file.check_vae(source, header, job.entry)
    codec = loader.codec(header.canvas)
    frames = screen.track(codec.decode(source, wanted.frames), "decode", len(wanted.frames))
    format = raw_format(target.name, wanted.size, wanted.fps)
    shared, tags = target.shared(format), {"sora": wanted.shot} if wanted.shot else {}
    if reduced := shared.note(target.name, format):
        screen.note(reduced)
    with target.held(), media.open_sink(target.name, format, tags, force=target.force, shared=shared) as sink:
        for frame in media.from_rgb(frames, codec.shown(header.canvas), format):
            sink.write(frame)
        target.check_files()  # what has come meanwhile
    for note in sink.notes:
        screen.note(note)
    record = {"output": target.name, **in_file(shared, len(wanted.frames)), **job.compute.drafted,
            "wall": round(time.perf_counter() - started, 3)}  # fmt: skip
    screen.made(record, target.as_json)
