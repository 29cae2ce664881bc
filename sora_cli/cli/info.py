"""`sora-cli info FILE`: what a file or folder holds, and the shot that made it, in words or as JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sora_cli.cli import describing, weights
from sora_cli.cli.data import lines as dataset_lines
from sora_cli.cli.describing import Found
from sora_cli.cli.options import DebugOption, JsonOption
from sora_cli.cli.screen import print_result
from sora_cli.errors import counted
from sora_cli.files import owned
from sora_cli.media.seams import verdict
from sora_cli.placement.estimate import quantity

Row = tuple[str, str]
CODECS = {"h264": "H.264", "hevc": "H.265", "av1": "AV1", "vp9": "VP9", "gif": "GIF", "webp": "WebP", "apng": "APNG"}
SPECIAL = {"rotated": "rotated by a tag in the file", "interlaced": "interlaced", "variable": "at a varying rate",
           "alpha": "may be transparent"}  # fmt: skip
SAMPLING = {"444": "4:4:4", "422": "4:2:2", "420": "4:2:0", "411": "4:1:1"}


def info(
    file: Annotated[
        Path,
        typer.Argument(
            parser=owned.folder, help="A video, an image, latents, a record, a LoRA, a model, a dataset or a run."
        ),
    ],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Describe a file or folder, and how it was made."""
    found = {"file": ""} | describing.describe(file) | {"file": str(file)}
    print_result(found, as_json, rows(found), 12)


def rows(found: Found) -> Iterator[Row]:
    """The rows of the table for people."""
    yield "file", found["file"]
    for part in (picture_rows, tensor_rows, folder_rows):
        yield from part(found)
    if "shot" in found:
        yield from shot_rows(found["shot"], found)


def picture_rows(found: Found) -> Iterator[Row]:
    match found["kind"]:
        case "video":
            yield from video_rows(found)
        case "image" | "images":
            yield "kind", f"{counted(found['frames'], 'image')}, numbered" if "frames" in found else "image"
            yield "picture", f"{found['width']}x{found['height']}"
        case "record":
            yield "kind", f"record of {found.get('output', 'a video')}, made by `{found['verb']}`"
            if "frames" in found and "wall" in found:
                yield "made", f"{counted(found['frames'], 'frame')} in {found['wall']:.1f} s"
            yield from ((name, f"{score:.1f}: {verdict(score)}") for name, score in (found.get("scores") or {}).items())


def video_rows(found: Found) -> Iterator[Row]:
    codec = CODECS.get(found["codec"]) or str(found["codec"])
    container = Path(found["file"]).suffix[1:].upper()
    held = f" in {container}" if container and container != codec.upper() else ""
    yield "kind", f"video, {codec}{held}, {quantity(found['bytes'], 'B')}"
    special = [words for name, words in SPECIAL.items() if found.get(name)]
    yield "picture", f"{found['width']}x{found['height']}{', '.join(['', *special])}"
    yield "length", f"{found['seconds']:.3g} s: {counted(found['frames'], 'frame')}, {rate(found['fps'])}"
    if "pix_fmt" in found:
        yield "colours", colours(found)
    if "sound" in found:
        tracks = [f"{hertz} Hz" for hertz in found["sound"]]
        count = counted(len(tracks), "track")
        yield "sound", f"{count}, {', '.join(tracks)}" if tracks else "none"
        if more := [kind for kind in found["others"] if kind != "video"]:
            yield "also", ", ".join(more)


def colours(found: Found) -> str:
    """`yuv420p10le` -> "4:2:0, 10 bits, HDR (PQ)"."""
    name = found["pix_fmt"]
    chroma = next((said for digits, said in SAMPLING.items() if digits in name), "grey" if "gray" in name else "RGB")
    bits = next((depth for depth in ("9", "10", "12", "14", "16") if f"p{depth}" in name), "8")
    return f"{chroma}, {bits} bits" + (f", HDR ({found['hdr']})" if found["hdr"] else "")


def rate(fps: float) -> str:
    return f"{fps:.5g} a second"


def tensor_rows(found: Found) -> Iterator[Row]:
    match found["kind"]:
        case "latents":
            channels, count, height, width = found["shape"]
            yield "kind", f"latents: {count} of {channels} channels, {width}x{height} cells, in {found['dtype']}"
            size = f"{found['width']}x{found['height']}"
            yield "decodes to", f"{size}, {counted(found['frames'], 'frame')}, {rate(found['fps'])}"
            yield "loops", "yes" if found["cyclic"] else "no"
            yield "model", f"{found['model']} (autoencoder {found['vae'][:12]})"
            video = f"a video whose SHA-256 begins with {found['video'][:12]}" if found["video"] else "no video"
            yield "belongs to", video
        case "lora":
            yield "kind", f"LoRA for {counted(found['modules'], 'layer')}, {quantity(found['bytes'], 'B')}"
            ranks = dict.fromkeys(str(found["ranks"][end]) for end in (0, -1)) if found["ranks"] else {}
            yield "rank", " to ".join(ranks) or "none: whole matrices"
            yield "made for", found["base"] or "unknown: the file does not say"
            yield "use", f"sora-cli generate PROMPT --model MODEL --lora {found['file']}"
        case "network":
            yield "kind", f"network of sora-cli: {found['role']}"
            yield "size", f"{found['numbers'] / 1e6:.1f} million numbers, {quantity(found['bytes'], 'B')}"
            yield from ((name, str(found[name])) for name in ("preset", "step") if name in found)
        case "model":
            yield "kind", "model"
            yield from weights.lines(found["model"])


def folder_rows(found: Found) -> Iterator[Row]:
    match found["kind"]:
        case "dataset":
            yield "kind", "dataset"
            yield from dataset_lines(found)
        case "run":
            stage = found["stage"] or "an unknown stage"
            yield "kind", " ".join(filter(None, ("training run of", stage, found["preset"])))
            if "step" in found:
                loss = f", loss {found['loss']:.4g}" if "loss" in found else ""
                yield "reached", f"step {found['step']}{loss}"
            yield "continues from", found["checkpoint"] or "the beginning: there is no checkpoint"
            yield "weights", ", ".join(found["weights"]) or "none yet"
        case "unfinished video":
            yield "kind", f"unfinished video, {quantity(found['bytes'], 'B')}"
            yield "finished", counted(found["windows"], "window")
            yield "continue", "repeat the command with --resume"
        case "folder":
            yield "kind", "folder, but not a dataset, run or model of sora-cli"
            files = counted(found["files"], "file")
            yield "holds", f"{files}, of which {found['clips']} by name are videos or pictures"
            if found["clips"]:
                yield "use", f"sora-cli data build {found['file']} -o DATASET"


def shot_rows(shot: Any, found: Found) -> Iterator[Row]:
    """How a file was made, in terms of the options that would make it again."""
    if not isinstance(shot, dict):
        beside = Path(found["file"]).with_suffix(".json")
        told = f"as {beside} says" if describing.shot_of_record(beside) else ""
        yield "made from", shot or told or "unknown: this file does not say how it was made"
        return
    yield "prompt", shot["prompt"] or "none"
    yield from (("  from " + cue["at"], cue["prompt"]) for cue in shot["cues"])
    yield from (("  read as", caption) for caption in shot["captions"])
    if shot["negative"]:
        yield "negative", shot["negative"]
    yield from (("given", f"{anchor['path']} at {anchor['at']}") for anchor in shot["anchors"])
    sampled = f"{counted(shot['steps'], 'step')}, guidance {shot['guidance']:g}, plan {shot['plan']}"
    yield "made by", f"{shot['model']}, seed {shot['seed']}, {sampled}"
    yield from (("  LoRA", f"{one['path']} at {one['strength']:g}") for one in shot["loras"])
    made = f"{shot['width']}x{shot['height']}, {counted(shot['frames'], 'frame')}, {rate(shot['fps'])}"
    yield "made as", f"{made}{', a loop' if shot['loop'] else ''}"
    yield "make again", f"sora-cli generate --from {found['file']}"
