"""From what a client asks to a job of the same kind that a command line makes; everything it may say is named here, and
none of it is a file of this machine. No torch."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sora_cli import geometry, registry
from sora_cli.cli import models, seeds
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.filming import Order
from sora_cli.cli.generate import job
from sora_cli.cli.jobs import Job, check_rooms
from sora_cli.cli.options import Compute, Keeping, Showing
from sora_cli.cli.serve import limits
from sora_cli.cli.serve.refusal import Refusal, public, refusing
from sora_cli.cli.serve.store import IMAGE, VIDEO, Store, Work, new_id
from sora_cli.errors import Failed, SoraError
from sora_cli.files import sniff
from sora_cli.registry import Entry
from sora_cli.shot import Anchor, Shot, check_prompt

EXTRAS = ("negative_prompt", "fps", "seed", "steps", "guidance")  # ours, beside what OpenAI's API has
REMIX = "remix"
FIELDS = {
    VIDEO: ("prompt", "model", "seconds", "size", "input_reference", *EXTRAS),
    IMAGE: ("prompt", "model", "size", "n", "response_format", "output_format", *EXTRAS),
    REMIX: ("prompt",),
}
IGNORED = ("user", "quality", "style", "background", "moderation", "output_compression")  # of images: say nothing here
SETTINGS = (  # of a shot, that a job keeps
    "negative", "width", "height", "frames", "fps", "seed", "steps", "guidance", "guidance_low",
)  # fmt: skip
KEEPING = Keeping(resume=True, metadata=False, force=True)  # metadata would name files of this machine


@dataclass(frozen=True)
class Orders:
    """Turns requests into jobs. `served`: models by the names that clients use; the first is the default."""

    served: Mapping[str, Entry]
    store: Store
    compute: Compute
    expand: str = "auto"
    expand_model: str | None = None

    # -- a request, checked -------------------------------------------------------------------------------------

    def video(self, wishes: Mapping[str, Any]) -> Work:
        """The job for a request for a video; Refusal if a field is wrong."""
        return self.work(VIDEO, self.checked(VIDEO, wishes))

    def remix(self, wishes: Mapping[str, Any], source: Work) -> Work:
        """The job of a video like another one, with another prompt."""
        made = self.video(self.checked(REMIX, wishes) | {"model": source.model})
        return replace(made, settings=source.settings, reference=source.reference, remixed_from=source.id)

    def images(self, wishes: Mapping[str, Any]) -> list[Work]:
        """One job for each image of a request, with seeds that follow one another."""
        fields = self.checked(IMAGE, {name: value for name, value in wishes.items() if name not in IGNORED})
        count = whole("n", fields.get("n", 1), 1, limits.MOST_IMAGES)
        if fields.get("output_format", "png") != "png":
            raise Refusal(400, "output_format must be png", "invalid_value", "output_format")
        first = self.work(IMAGE, fields)
        seed = first.settings["seed"]
        more = [{**first.settings, "seed": (seed + n) % seeds.DRAWN} for n in range(1, count)]
        return [first, *(replace(first, id=new_id(IMAGE), settings=settings) for settings in more)]

    def checked(self, kind: str, wishes: Mapping[str, Any]) -> dict[str, Any]:
        """The given fields without nulls; Refusal for unknown ones."""
        fields = {name: value for name, value in wishes.items() if value is not None}
        for name in fields:
            if name not in FIELDS[kind]:
                raise Refusal(400, f"unknown field {name[:40]!a}; known fields: {', '.join(FIELDS[kind])}",
                              "unknown_parameter", name[:40])  # fmt: skip
        return fields

    def work(self, kind: str, fields: Mapping[str, Any]) -> Work:
        name = text("model", fields.get("model", next(iter(self.served))))
        if name not in self.served:
            raise Refusal(404, f"unknown model {name[:60]!a}; known models: {', '.join(self.served)}",
                          "model_not_found", "model")  # fmt: skip
        prompt = text("prompt", fields.get("prompt", ""))
        entry = self.served[name]
        shot = self.shot(entry, prompt, fields)
        shot = self.lasting(shot, entry, fields.get("seconds")) if kind == VIDEO else replace(shot, frames=1)
        settings = {one: getattr(shot, one) for one in SETTINGS}
        return Work(new_id(kind), kind, name, prompt, settings)

    def shot(self, entry: Entry, prompt: str, fields: Mapping[str, Any]) -> Shot:
        """The model's usual shot, changed by the given fields."""
        wanted: dict[str, Any] = {"prompt": prompt, "seed": seed_of(fields.get("seed"))}
        if "steps" in fields:
            wanted["steps"] = whole("steps", fields["steps"], 1, limits.MOST_STEPS)
        for name in ("fps", "guidance"):
            if name in fields:
                wanted[name] = number(name, fields[name])
        if "guidance" in fields:
            wanted["guidance_low"] = 0.0  # one number is for both transformers of a model that has two
        if "negative_prompt" in fields:
            wanted["negative"] = text("negative_prompt", fields["negative_prompt"])
        default = models.default_shot(entry)
        wanted["width"], wanted["height"] = self.size(fields.get("size"), default)
        with refusing():
            check_prompt(prompt)
            return replace(default, **wanted)

    def size(self, value: Any, default: Shot) -> tuple[int, int]:
        """(width, height): the requested size, or the model's usual one within the limit."""
        if value is None or value == "auto":
            return geometry_within(default.width, default.height, self.store.limits.pixels)
        with refusing("size"):
            width, height = geometry.parse_res(text("size", value))
        if width * height > self.store.limits.pixels:
            raise Refusal(400, f"size {width}x{height} has {width * height} pixels; at most {self.store.limits.pixels} "
                          f"are allowed, as in {self.store.limits.max_res}", "invalid_value", "size")  # fmt: skip
        return width, height

    def lasting(self, shot: Shot, entry: Entry, value: Any) -> Shot:
        most, default = self.store.limits.max_seconds, models.default_shot(entry)
        if value is None and default.seconds <= most:
            return replace(shot, frames=models.frames_at(shot.fps, default, entry.usage))
        seconds = most if value is None else number("seconds", value)
        if not 0 < seconds <= most:
            raise Refusal(400, f"seconds is {seconds:g}; it must be above 0 and at most {most:g}", "invalid_value",
                          "seconds")  # fmt: skip
        with refusing("seconds"):
            return replace(shot, frames=geometry.frames_for(seconds, shot.fps))

    # -- a job, made as a command line makes it -----------------------------------------------------------------

    def job(self, work: Work) -> Job:
        """The job of a video or image, whose folder has the uploaded picture; SoraError if it can no longer be made."""
        entry = self.served.get(work.model)
        if entry is None:
            raise SoraError(f"the model {work.model} is no longer served")
        anchors = (Anchor(str(self.store.file(work, work.reference)), "0"),) if work.reference else ()
        shot = replace(models.default_shot(entry, work.prompt), **work.settings, anchors=anchors)
        expansion = Expansion.asked(self.expand, self.expand_model, entry)
        order = Order([shot], entry, expansion, str(shot.seed))
        name = str(self.store.file(work, work.result))
        return job(order, 0, name, self.compute, KEEPING, Showing(quiet=True))

    def check(self, work: Work) -> None:
        """Refusal for a bad picture, or if the disk has no room."""
        try:
            one = self.job(work)
            one.check(one.target)
        except SoraError as error:
            broken = "input_reference" if isinstance(error, Failed) else None
            raise Refusal(400, self.public(error, work), "invalid_value", broken) from None
        try:
            check_rooms([one])
        except Failed as error:
            raise Refusal(507, "the disk has no room for the job", "no_room") from error

    def public(self, error: Exception, work: Work) -> str:
        """An error message for clients, without the job's folder."""
        message = str(error).replace(f"{self.store.folder_of(work)}{os.sep}", "")
        return public(message.replace(work.reference, "input_reference") if work.reference else message)


def geometry_within(width: int, height: int, pixels: int) -> tuple[int, int]:
    """A size of about the same shape with at most so many pixels, both sides even."""
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    return (width, height) if scale == 1 else (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refusal(400, f"{name} must be a string", "invalid_type", name)
    return value


def number(name: str, value: Any) -> float:
    """A number, also from a string as in forms; Refusal for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Refusal(400, f"{name} must be a number", "invalid_type", name)
    return found


def whole(name: str, value: Any, low: int, high: int) -> int:
    found = number(name, value)
    if found != int(found) or not low <= found <= high:
        raise Refusal(400, f"{name} must be a whole number from {low} to {high}", "invalid_value", name)
    return int(found)


def one_of(name: str, value: Any, accepted: Collection[str]) -> None:
    if value not in accepted:
        raise Refusal(400, f"{name} must be {' or '.join(accepted)}", "invalid_value", name)


def seed_of(value: Any) -> int:
    """A seed as in `--seed`; a random one if none is given."""
    if value is None:
        return seeds.number("random")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Refusal(400, "seed must be a whole number of at least 0, or random", "invalid_type", "seed")
    with refusing("seed"):
        return seeds.number(str(value))


def picture_of(path: Path) -> str:
    """The ending that suits an uploaded picture, whatever its name was; Refusal for anything but one PNG, JPEG or WebP
    picture. ffmpeg never sees anything else: playlists and their like would have it read other files."""
    with path.open("rb") as file:
        suffix = sniff.picture(file.read(sniff.PICTURE_HEAD))
    try:
        if not suffix:
            raise OSError
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            moves = suffix != ".jpg" and getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Refusal(400, "input_reference must be one picture: PNG, JPEG or WebP", "invalid_value",
                      "input_reference") from None  # fmt: skip
    if moves:
        raise Refusal(400, "input_reference is animated; give a still picture", "invalid_value", "input_reference")
    if width * height > limits.MOST_PIXELS:
        raise Refusal(400, f"input_reference has {width}x{height} pixels; at most {limits.MOST_PIXELS} are allowed",
                      "invalid_value", "input_reference")  # fmt: skip
    return suffix


def served_as(texts: Sequence[str]) -> dict[str, Entry]:
    """`--model` as [NAME=]MODEL: models by the names that clients use; SoraError for names that come twice."""
    found: dict[str, Entry] = {}
    for one in texts:
        name, equals, model = one.partition("=")
        if not equals or "/" in name:
            name, model = "", one
        entry = registry.entry(model)
        name = name or entry.name
        name = Path(name).name if "/" in name else name
        if name in found:
            raise SoraError(f"two models are called {name}; give one of them another name, as --model other={model}")
        found[name] = entry
    return found
