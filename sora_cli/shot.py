"""A shot: one request, validated once, frozen and serialisable (metadata, batch lines, replay)."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any

from sora_cli import geometry
from sora_cli.errors import SoraError, be, counted

PLANS = ("full", "autoregressive", "sliding", "long-range", "hierarchy")
FITS = ("cover", "contain", "stretch")
LONGEST_SECONDS = 3600.0
LONGEST_PROMPT = 2000
MOST_FRAMES = 432_000          # an hour at the fastest frame rate
STRONGEST = 10.0               # LoRA
DIGITS = r"\s*[+-]?[\d.,_]*\d[\d.,_e+-]*\s*[%x]?\s*"  # what is meant as a number
EXPERTS = ("high", "low")      # transformers of a model that has two, by the noise that they are for


@dataclass(frozen=True)
class Anchor:
    """A given picture or clip and its time: seconds (`2.5s`), a frame (`60`), or from the end (`-1`), where a clip
    ends. `PATH@TIME` on the command line."""

    path: str
    at: str = "0"

    @classmethod
    def parse(cls, text: str) -> "Anchor":
        path, _, at = text.rpartition("@")
        anchor = cls(path, at) if path else cls(text)
        if not anchor.path.strip() or not anchor.at.strip():
            raise SoraError(f"anchor {text!r} is not FILE@TIME, for example start.png@0 or end.png@-1")
        return anchor


@dataclass(frozen=True)
class Cue:
    """A change of prompt: what the video shows from this time on. `TIME=PROMPT` on the command line."""

    at: str
    prompt: str

    @classmethod
    def parse(cls, text: str) -> "Cue":
        at, equals, prompt = text.partition("=")
        if not equals or not prompt.strip():
            raise SoraError(f"{text!r} is not TIME=PROMPT, for example 8s=\"the cat falls off\"")
        return cls(at.strip(), prompt.strip())


@dataclass(frozen=True)
class Lora:
    """A LoRA file and its strength, for both transformers or one. `[high:|low:]FILE[:STRENGTH]` on the command line."""

    path: str
    strength: float = 1.0
    expert: str = ""  # of a model of two transformers, the one that is changed; "": both

    @classmethod
    def parse(cls, text: str) -> "Lora":
        expert, _, rest = text.partition(":")
        if expert not in EXPERTS or re.fullmatch(DIGITS, rest):
            expert, rest = "", text
        path, _, strength = rest.rpartition(":")
        try:
            lora = cls(path, float(strength), expert) if path else cls(rest, expert=expert)
        except ValueError:
            lora = cls(rest, expert=expert)  # a name with a colon in it
        if re.match(r"https?:", text):
            raise SoraError(f"LoRA {text} is a URL; download the file and give its path")
        if path and re.fullmatch(DIGITS, strength) and (lora.path == rest or re.search(r"_|[^\x00-\x7f]", strength)):
            raise SoraError(f"LoRA strength {strength!r} is not a number; write it like style.safetensors:0.8")
        if not lora.path.strip():
            raise SoraError(f"LoRA {text!r} is not FILE[:STRENGTH], for example style.safetensors:0.8")
        return lora

    def __str__(self) -> str:
        """File, and which transformer it is for if that is said."""
        return f"{self.expert}:{self.path}" if self.expert else self.path


@dataclass(frozen=True)
class Shot:
    """One video to make. Sizes in pixels, `frames` exact, `fps` frames per second. The prompt may be empty
    if anchors or a neighbouring video show the scene."""

    prompt: str
    negative: str = ""
    width: int = 1280
    height: int = 720
    frames: int = 120
    fps: float = 24.0
    seed: int = 0
    steps: int = 8
    guidance: float = 3.0
    model: str = "pocket"
    plan: str = "hierarchy"
    anchors: tuple[Anchor, ...] = ()
    fit: str = "cover"              # how anchors of another shape fill the frame
    cues: tuple[Cue, ...] = ()      # changes of prompt along the way
    loop: bool = False              # the last frame leads to the first
    loras: tuple[Lora, ...] = ()    # changes of the model, added up
    captions: tuple[str, ...] = ()  # what is read for the prompt and each cue; (): as the model was trained
    guidance_low: float = 0.0       # of the transformer for low noise, of a model that has two; 0: that of both

    def __post_init__(self) -> None:
        for text in self.prompts:
            check_text("prompt", text)
        if len(self.captions) not in (0, 1 + len(self.cues)):
            raise SoraError(f"there {be(len(self.captions))} {counted(len(self.captions), 'caption')} for "
                            f"{counted(1 + len(self.cues), 'prompt')}")
        for text in self.captions:
            check_text("caption", text)
        check_text("negative prompt", self.negative)
        check_text("name of the model", self.model)
        for anchor in self.anchors:
            check_text("name of an anchor", anchor.path)
        for lora in self.loras:
            check_text("name of a LoRA", lora.path)
            check_range(f"strength of {lora.path}", lora.strength, -STRONGEST, STRONGEST)
            check_choice("transformer of a LoRA", lora.expert, ("", *EXPERTS))
        geometry.check_size(self.width, self.height)
        check_range("fps", self.fps, 1, 120)
        check_range("frames", self.frames, 1, MOST_FRAMES)
        check_range("seconds", self.seconds, 0, LONGEST_SECONDS)
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("steps", self.steps, 1, 1000)
        check_range("guidance", self.guidance, 0, 100)
        check_range("guidance for low noise", self.guidance_low, 0, 100)
        check_choice("plan", self.plan, PLANS)
        check_choice("fit", self.fit, FITS)
        check_moments("anchor", [anchor.at for anchor in self.anchors], self)
        check_moments("prompt", [cue.at for cue in self.cues], self)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt and those of the cues, as typed."""
        return self.prompt, *(cue.prompt for cue in self.cues)

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def guidances(self) -> tuple[float, float]:
        """(guidance for high noise, guidance for low noise); equal unless the shot sets both."""
        return self.guidance, self.guidance_low or self.guidance

    def at(self, fps: float) -> "Shot":
        """The shot at another rate: its last frame, anchors and cues keep their times."""
        if fps == self.fps:
            return self
        ratio = Fraction(fps).limit_denominator(1000) / Fraction(self.fps).limit_denominator(1000)
        frames = ceil((self.frames - 1) * ratio) + 1
        if self.loop:
            frames = max(2, round(self.frames * ratio / geometry.TIME_STRIDE)) * geometry.TIME_STRIDE
        moved = partial(geometry.moved, before=(self.fps, self.frames), after=(fps, frames))
        anchors = tuple(replace(anchor, at=moved(anchor.at)) for anchor in self.anchors)
        cues = tuple(replace(cue, at=moved(cue.at)) for cue in self.cues)
        return replace(self, fps=fps, frames=frames, anchors=anchors, cues=cues)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Shot":
        """The inverse of to_json; SoraError on anything that is not a shot."""
        try:
            asked = json.loads(text)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
            raise SoraError(f"not a shot: {error}") from error
        if not isinstance(asked, dict) or "prompt" not in asked:
            raise SoraError("not a shot: a JSON object with at least a prompt is needed")
        kinds = {field.name: type(getattr(BLANK, field.name)) for field in fields(cls)}
        if unknown := sorted(asked.keys() - kinds.keys()):
            named = ", ".join(ascii(name[:40])[1:-1] for name in unknown[:5])
            raise SoraError(f"not a shot: unknown field {named}; known fields: {', '.join(kinds)}")
        return cls(**{name: read_field(name, value, kinds[name]) for name, value in asked.items()})


def check_text(what: str, text: str) -> None:
    if len(text) > LONGEST_PROMPT:
        raise SoraError(f"the {what} has {len(text)} characters; at most {LONGEST_PROMPT} are allowed")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SoraError(f"the {what} is not valid UTF-8")


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise SoraError('the prompt is empty; say what to show, for example "a cat surfing"')


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SoraError(f"unknown {what} {value!r}; choose one of {', '.join(choices)}")


def check_moments(what: str, addresses: Sequence[str], shot: Shot) -> None:
    """Refuse addresses outside the video, and two at the same frame."""
    frames = [geometry.parse_address(at, shot.fps, shot.frames) for at in addresses]
    counts = Counter(frames)
    for at, frame in zip(addresses, frames, strict=True):
        if counts[frame] > 1:
            raise SoraError(f"two {what}s are given for {at} (frame {frame}); keep one of them")


def check_range(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # nan is not
        raise SoraError(f"{what} is {shown(value)}; it must be from {low:g} to {high:g}")


def shown(value: float) -> str:
    """A number as text; integers may be too large for a float."""
    return f"{value:g}" if isinstance(value, float) or abs(value) < 10**15 else f"{str(value)[:15]}..."


def read_field(name: str, value: Any, kind: type) -> Any:
    """Convert a field of a shot from JSON; SoraError if its type is wrong."""
    if name == "captions":
        return tuple(typed(name, text, str) for text in typed(name, value, list))
    return records(name, value, LISTS[name]) if name in LISTS else typed(name, value, kind)


def typed(name: str, value: Any, kind: type) -> Any:
    """`value` as `kind`, where a whole number may stand for a float; SoraError otherwise."""
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise SoraError(f"not a shot: {name} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def records(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    """A list of objects as a tuple of frozen records; SoraError otherwise."""
    types: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    fit = isinstance(value, list) and all(
        isinstance(item, dict) and set(types) - LATER <= item.keys() <= set(types) for item in value
    )
    if not fit:
        raise SoraError(f"not a shot: {name} is not a list of objects with {' and '.join(sorted(types))}")
    return tuple(kind(**{key: typed(f"{name}.{key}", it, types[key]) for key, it in item.items()}) for item in value)


LATER = {"expert"}  # fields of records that older shots do not have
LISTS: dict[str, type] = {"anchors": Anchor, "cues": Cue, "loras": Lora}
BLANK = Shot(prompt="blank")
