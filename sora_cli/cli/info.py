"""`sora-cli info FILE`: what a video, an image or a file of latents holds, and the shot that made it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sora_cli import media
from sora_cli.cli.options import DebugOption, JsonOption
from sora_cli.errors import Failed, SoraError
from sora_cli.shot import Shot
from sora_cli.storage import latent_file

PNG = b"\x89PNG\r\n\x1a\n"
NO_SHOT = "none: this file does not say how it was made"


def info(
    file: Annotated[Path, typer.Argument(help="A video, an image or latents.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what is in a file, and which shot made it."""
    found = {"file": str(file), **describe(file)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, value in rows(found):
        typer.echo(f"{name:<10} {value}")


def describe(file: Path) -> dict[str, Any]:
    """What the file holds; its `shot` is a dictionary, None, or the complaint about one that cannot be read."""
    if not file.is_file():
        raise SoraError(f"there is no file {file}")
    if file.suffix.lower() == ".safetensors":
        return describe_latents(file)
    with file.open("rb") as opened:
        return describe_image(file) if opened.read(len(PNG)) == PNG else describe_video(file)


def describe_latents(file: Path) -> dict[str, Any]:
    layout = latent_file.read_layout(file)
    header = asdict(layout.header)
    shot = read_shot(header.pop("shot"))
    return {"kind": "latents", **header, "shape": list(layout.shape), "dtype": layout.dtype, "shot": shot}


def describe_video(file: Path) -> dict[str, Any]:
    found = media.probe(file)
    shot = read_shot(found.metadata.get("sora", ""))
    plain = {name: value for name, value in asdict(found).items() if name != "metadata"}
    return {"kind": "video", **plain, "seconds": round(found.seconds, 3), "shot": shot}


def describe_image(file: Path) -> dict[str, Any]:
    """A PNG by its header and its text, its pixels left alone."""
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as image:
            (width, height), text = image.size, image.info.get("sora", "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Failed(f"{file} is not a readable image: {error}") from error
    return {"kind": "image", "width": width, "height": height, "shot": read_shot(text)}


def shot_in(file: Path) -> Shot:
    """The shot that a video, an image, latents or a record carry; SoraError if there is none."""
    if file.suffix.lower() == ".json" and file.is_file():
        text = shot_of_record(file)
    else:
        found = describe(file)["shot"]
        text = json.dumps(found) if isinstance(found, dict) else ""
    if not text:
        raise SoraError(f"{file} does not say how it was made; give a prompt instead of --from")
    return Shot.from_json(text)


def shot_of_record(file: Path) -> str:
    """The shot in a record that lies beside a video, "" if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return json.dumps(found["shot"]) if isinstance(found, dict) and "shot" in found else ""


def read_shot(text: str) -> dict[str, Any] | str | None:
    try:
        return asdict(Shot.from_json(text)) if text else None
    except SoraError as error:
        return str(error)


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The table for eyes: sizes as WIDTHxHEIGHT, the shot's fields under their own heading."""
    plain = dict(found)
    shot = plain.pop("shot")
    plain["size"] = f"{plain.pop('width')}x{plain.pop('height')}"
    table = [(name, cell(value)) for name, value in plain.items()]
    if not isinstance(shot, dict):
        return [*table, ("shot", cell(shot or NO_SHOT))]
    return [*table, ("shot", ""), *((f"  {name}", cell(value)) for name, value in shot.items())]


def cell(value: object) -> str:
    """A value on one line, without anything that a terminal would obey."""
    if isinstance(value, list):
        return "x".join(str(n) for n in value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
