"""`sora-cli generate PROMPT`: a prompt in, an MP4 out."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sora_cli import geometry, media, weights
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
    SeedOption,
)
from sora_cli.cli.outputs import check_room, check_video, output_paths
from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError
from sora_cli.shot import LONGEST_SECONDS, PLANS, Shot, check_range

if TYPE_CHECKING:
    from sora_cli.engine import Engine, Run

DEFAULT_SECONDS = 5.0


def generate(
    prompt: Annotated[str, typer.Argument(help='What to show, for example "a cat surfing".')],
    seconds: Annotated[float | None, typer.Option(help="Length in seconds (5 unless told).")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames instead; 1 makes an image.")] = None,
    res: Annotated[str, typer.Option(metavar="WxH", help="Size in pixels, both even.")] = "1280x720",
    fps: Annotated[float, typer.Option(help="Frames per second, 1 to 120.")] = 24.0,
    seed: SeedOption = 0,
    steps: Annotated[int, typer.Option(help="Steps of the sampler; more is slower and finer.")] = 8,
    guidance: Annotated[float, typer.Option(help="How strictly to follow the prompt.")] = 3.0,
    negative: Annotated[str, typer.Option(metavar="TEXT", help="What not to show.")] = "",
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000, help="How many videos.")] = 1,
    model: ModelOption = "pocket",
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    plan: Annotated[str, typer.Option(help=f"Order of generation: {' or '.join(PLANS)}.")] = "hierarchy",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File name; {prompt}, {seed} and {n} are filled in.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a video from a prompt, exactly as large and as long as asked."""
    width, height = geometry.parse_res(res)
    length = frame_count(seconds, frames, fps)
    shots = [
        Shot(prompt, negative, width, height, length, fps, seed + n, steps, guidance, model, plan)
        for n in range(count)
    ]
    paths = check(shots, output, force)

    from sora_cli.engine import Engine

    with Screen(quiet) as screen:
        engine = Engine(model, device=str(device), dtype=str(dtype))
        for shot, path in zip(shots, paths, strict=True):
            made = make(engine, shot, path, screen)
            typer.echo(json.dumps(made, ensure_ascii=False) if as_json else str(path))


def frame_count(seconds: float | None, frames: int | None, fps: float) -> int:
    """Frames from whichever of the two was given; SoraError for both, or for nonsense."""
    if seconds is not None and frames is not None:
        raise SoraError("--seconds and --frames both say how long the video is; give one of them")
    if frames is not None:
        return frames
    seconds = DEFAULT_SECONDS if seconds is None else seconds
    if not 0 < seconds <= LONGEST_SECONDS:
        raise SoraError(f"--seconds is {seconds:g}; it must be above 0 and at most {LONGEST_SECONDS:g}")
    check_range("fps", fps, 1, 120)
    return geometry.frames_for(seconds, fps)


def check(shots: list[Shot], output: str | None, force: bool) -> list[Path]:
    """All that can be refused without torch: names, folders, room, the model and its files."""
    model = weights.entry(shots[0].model)
    paths = output_paths(output, shots)
    for path, shot in zip(paths, shots, strict=True):
        check_video(path, shot, force)
    check_room(paths[0].parent, shots)
    weights.verify(model)
    return paths


def make(engine: "Engine", shot: Shot, path: Path, screen: Screen) -> dict[str, object]:
    """One video on the disk; returns the line for --json."""
    started = time.perf_counter()
    run = engine.start(shot)
    for note in run.notes:
        screen.note(note)
    for progress in run.denoise():
        screen.show(progress.stage, progress.done, progress.total)
    encoding = write(run, shot, path, screen)
    screen.clear()
    wall = time.perf_counter() - started
    screen.note(f"{shot.frames} frames of {shot.width}x{shot.height} in {wall:.1f} s")
    return {
        "output": str(path),
        "shot": asdict(shot),
        "wall": round(wall, 3),
        "timings": {stage: round(spent, 3) for stage, spent in {**run.timings, "encode": encoding}.items()},
        "flops": run.flops,
        "notes": list(run.notes),
    }


def write(run: "Run", shot: Shot, path: Path, screen: Screen) -> float:
    """Decode straight into the file; returns the seconds spent waiting for the encoder."""
    size, tags = (shot.width, shot.height), {"sora": shot.to_json()}
    frames = screen.track(run.frames(), "decode", shot.frames)
    if path.suffix.lower() == ".png":
        media.write_image(path, next(frames), size, tags)
        return 0.0
    with media.VideoWriter(path, size, shot.fps, run.source_size, tags) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.waited
