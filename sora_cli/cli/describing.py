"""What there is to know of a file or a folder, for `info` and for all that goes on from a shot. No torch."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from sora_cli import media, registry
from sora_cli.cli.weights import described
from sora_cli.dataset import shards
from sora_cli.dataset.summary import summary
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.files.owned import IDENTITY, Owned
from sora_cli.media import kinds
from sora_cli.media.mending import HDR
from sora_cli.media.names import sequence_of
from sora_cli.registry import lora
from sora_cli.shot import Shot
from sora_cli.storage import latent_file

Found = dict[str, Any]
SHOT_TAG = "sora"  # the tag of a file that holds its shot
NUMBER = int | float
# of a record, as far as it is shown
RECORD: Found = {"verb": str, "output": str, "frames": int, "wall": NUMBER, "scores": dict | None}


def describe(file: Path) -> Found:
    """What a file or folder holds, with its `kind`; its `shot` is a dictionary, None, or the complaint about one that
    cannot be read. SoraError if it is not there or nothing that is known here."""
    if file.is_dir():
        return describe_folder(file)
    if not file.is_file() and (sequence := sequence_of(str(file))) and (numbers := sequence.numbers()):
        return describe_image(sequence.path(numbers[0])) | {"kind": "images", "frames": len(numbers)}
    if not file.is_file():
        raise SoraError(f"there is no file {file}")
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return describe_tensors(file)
    if suffix == ".gguf":
        return describe_model(file)
    if suffix == ".json":
        return describe_record(file)
    if unread := kinds.unread(file.name):
        raise SoraError(f"{file}: {unread}")
    is_image = suffix in kinds.IMAGES and suffix != ".apng"
    return describe_image(file) if is_image else describe_video(file)


def describe_video(file: Path) -> Found:
    """A video's properties as displayed: upright, deinterlaced."""
    found = media.probe(file)
    seen = found.picture
    turned = (found.width, found.height) == (seen.height, seen.width) != (seen.width, seen.height)
    return {
        "kind": "video", "width": found.width, "height": found.height, "fps": found.fps, "frames": found.frames,
        "codec": seen.codec, "pix_fmt": seen.pix_fmt, "seconds": round(found.seconds, 3), "bytes": file.stat().st_size,
        "container": seen.container.split(",")[0], "rotated": turned, "hdr": HDR.get(seen.transfer or ""),
        "interlaced": bool(seen.fields), "variable": seen.varies,
        "alpha": seen.alpha and seen.pix_fmt != "pal8", "sound": list(seen.sounds), "others": list(seen.others),
        "shot": read_shot(seen.metadata.get(SHOT_TAG, "")),
    }  # fmt: skip


def describe_image(file: Path) -> Found:
    """A picture's properties from its header and text, without decoding its pixels."""
    try:
        with Image.open(file) as image:
            (width, height), text = image.size, image.info.get(SHOT_TAG, "")
            if getattr(image, "n_frames", 1) > 1 and image.format in ("WEBP", "PNG", "AVIF"):
                return describe_moving(file, image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Failed(f"{file} is not a readable image: {error}") from error
    return {"kind": "image", "width": width, "height": height, "shot": read_shot(text)}


def describe_moving(file: Path, image: Image.Image) -> Found:
    """An animated WebP, PNG or AVIF, read with Pillow: ffmpeg does not read all of them."""
    frames, shown = getattr(image, "n_frames", 1), 0.0
    for number in range(frames):
        image.seek(number)
        image.load()
        shown += image.info.get("duration", 0) / 1000
    return {"kind": "video", "width": image.width, "height": image.height, "fps": frames / shown if shown else 0.0,
            "frames": frames, "codec": (image.format or "").lower(), "seconds": round(shown, 3),
            "bytes": file.stat().st_size, "shot": None}  # fmt: skip


def describe_tensors(file: Path) -> Found:
    """Latents, a LoRA, one of our networks, or a model of a single file."""
    try:
        return describe_latents(file)
    except SoraError as error:
        refused = error
    header = weights.read_header(file)
    if "config" in header.metadata and file.stem.split("-0")[0] in (*registry.ROLES, "evaluator", "captioner", "video"):
        return {"kind": "network", "role": file.stem, "numbers": header.count(), "bytes": file.stat().st_size,
                **{name: header.metadata[name] for name in ("preset", "step") if name in header.metadata}}  # fmt: skip
    if modules := lora.File.of(file).modules:
        ranks = sorted({one["down"].shape[0] for one in modules.values() if "down" in one and one["down"].shape})
        return {"kind": "lora", "modules": len(modules), "ranks": ranks, "bytes": file.stat().st_size,
                "base": header.metadata.get("base_model", "")}  # fmt: skip
    try:
        return describe_model(file)
    except SoraError:
        raise refused from None


def describe_latents(file: Path) -> Found:
    layout = latent_file.read_layout(file)
    header = asdict(layout.header)
    shot = read_shot(header.pop("shot"))
    return {"kind": "latents", **header, "shape": list(layout.shape), "dtype": layout.dtype, "shot": shot}


def describe_folder(folder: Path) -> Found:
    """A dataset, a model, the finished windows of a video that waits for `--resume`, a run, or something else."""
    if shards.is_dataset(folder):
        return {"kind": "dataset", **summary(folder)}
    if any((folder / name).is_file() for name in ("weights.toml", "model_index.json")):  # of an export, of diffusers
        return describe_model(folder)
    if windows := list(folder.rglob("window-*.safetensors")):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {"kind": "unfinished video", "windows": len(windows), "bytes": size}
    if (folder / IDENTITY).is_file() or (folder / "log.jsonl").is_file():
        return describe_run(folder)
    names = [name for name, why in kinds.walk(folder) if not why]
    return {"kind": "folder", "files": len(names), "clips": sum(map(kinds.is_footage, names))}


def describe_model(path: Path) -> Found:
    """What `weights show` says of the folder or the file."""
    name = str(path) if path.is_absolute() or path.is_file() else f"./{path}"
    return {"kind": "model", "model": described(registry.entry(name))}


def describe_run(folder: Path) -> Found:
    """A training run: what is trained, and how far it is."""
    stored = Owned(folder).stored_identity()
    identity = stored if isinstance(stored, dict) else {}
    stage, preset, version = (text if isinstance(text := identity.get(name), str) else ""
                              for name in ("stage", "preset", "version"))  # fmt: skip
    last = next((line for line in reversed(shards.read_lines(folder / "log.jsonl")) if "step" in line), {})
    last = {name: value for name, value in last.items() if isinstance(value, NUMBER) or name not in ("step", "loss")}
    saved = sorted(path.name for path in folder.glob("checkpoint-???????"))
    return {"kind": "", "stage": stage, "preset": preset} | last | {
        "kind": "run", "stage": stage, "preset": preset, "checkpoint": saved[-1] if saved else "",
        "weights": sorted(p.name for p in folder.glob("*.safetensors")), "version": version,
    }  # fmt: skip


def describe_record(file: Path) -> Found:
    """The record beside a video."""
    found = read_json(file)
    fits = all(isinstance(found[name], kind) for name, kind in RECORD.items() if name in found)
    scores = (found.get("scores") or {}).values() if fits else ()
    if not fits or not {"verb", "shot"} <= found.keys() or not all(isinstance(score, NUMBER) for score in scores):
        raise SoraError(f"{file} is JSON, but not the record of a video")
    return {"kind": "record"} | found | {"kind": "record", "shot": read_shot(json.dumps(found["shot"]))}


def read_json(file: Path) -> Found:
    """The object in a file, empty for other JSON; Failed if it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(f"{file} is not readable JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def shot_in(file: Path) -> Shot:
    """The shot that a video, an image, latents or a record carry; SoraError if there is none."""
    if file.suffix.lower() == ".json" and file.is_file():
        text = shot_of_record(file)
    elif file.is_dir():
        raise SoraError(f"{file} is a folder; --from takes a video, an image, latents or the record beside a video")
    else:
        found = describe(file).get("shot")
        if isinstance(found, str):
            raise SoraError(f"{file} does not say how it was made: {found}")
        text = json.dumps(found) if found else ""
    if not text:
        raise SoraError(f"{file} does not say how it was made; give a prompt instead of --from")
    return Shot.from_json(text)


def shot_of_record(file: Path) -> str:
    """The shot in the record of a video, "" if there is none."""
    with suppress(Failed, KeyError):
        return json.dumps(read_json(file)["shot"])
    return ""


def read_shot(text: str) -> Found | str | None:
    try:
        return asdict(Shot.from_json(text)) if text else None
    except SoraError as error:
        return str(error)
