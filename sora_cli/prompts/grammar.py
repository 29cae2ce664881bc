"""From what somebody types to the caption the model was trained on, by the grammar of the world. No torch."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from sora_cli.errors import listed
from sora_cli.shot import Shot
from sora_cli.world.captions import Parsed, dense, parse
from sora_cli.world.scene import Scene
from sora_cli.world.vocabulary import BEAT_OF, BEATS, SIDES, SUBJECTS

SAID = ("subjects", "action", "place", "size", "speed", "camera")
DEFAULT_SUBJECT = "cat"      # when neither subject nor place is said
MOST = 20            # words in a note
FACING = {-1: "moving left", 0: "bouncing", 1: "moving right"}     # what a subject does by default


class Choice(NamedTuple):
    """The side, height and beat that a seed chooses if the prompt does not say them."""

    side: str
    height: str
    beat: str


@dataclass(frozen=True)
class Expansion:
    """A full caption, the scene it describes, and the words of the prompt that are not in it."""

    caption: str
    unknown: list[str]                   # words that the model never learned, each once
    scene: Scene
    left_out: list[str]                  # known words beyond what fits a scene
    read_as: dict[str, str]              # misspelled words, and what they were taken for


def captions_of(shot: Shot, grammar: bool) -> list[str]:
    """The captions for the prompt and every cue: the shot's own, or for a model that was trained on the grammar, the
    expanded prompts. An empty prompt stays empty: anchors show the scene."""
    if shot.captions or not grammar:
        return list(shot.captions or shot.prompts)
    return [caption_of(prompt, shot.seed) for prompt in shot.prompts]


def notes(name: str, shot: Shot, grammar: bool, raw: Iterable[str] = ()) -> Iterator[str]:
    """Notes on words that are corrected, unknown or left out; `raw`: unknown words in prompts used as typed."""
    both = zip(shot.prompts, captions_of(shot, grammar), strict=True)
    found = [expand(prompt) for prompt, caption in both if prompt.strip() and prompt != caption]
    if read_as := {pair for prompt in found for pair in prompt.read_as.items()}:
        yield "read " + ", ".join(f'"{word}" as "{right}"' for word, right in sorted(read_as))
    if unknown := sorted({*raw, *(word for prompt in found for word in prompt.unknown)}):
        where = "its world: `sora-cli world --help`; " if grammar else ""
        yield (f"{name} does not know: {listed([word[:40] for word in unknown], MOST)} ({where}"
               "a larger --model knows more: `sora-cli weights list`)")  # fmt: skip
    if left_out := sorted({word for prompt in found for word in prompt.left_out}):
        yield f"a scene holds at most two subjects, and one of everything else; left out: {listed(left_out, MOST)}"


def caption_of(prompt: str, seed: int) -> str:
    return expand(prompt, seed).caption if prompt.strip() else ""


def expand(prompt: str, seed: int = 0) -> Expansion:
    """Fill in what the prompt leaves open: home place, fitting action, usual attributes, and the seed's choices."""
    return complete(parse(prompt), seed)


def expand_with(prompt: str, parsed: Parsed) -> str:
    """Expand a prompt with the choices of another scene; the prompt's own words win, and the seed's part stays open."""
    said = parse(prompt)
    both = replace(said, **{name: getattr(said, name) or getattr(parsed, name) for name in SAID + Choice._fields})
    found = complete(both)
    caption = found.caption
    for name in Choice._fields:
        if getattr(both, name) is None:
            caption = caption.replace(f", {getattr(found.scene, name)}", "")
    return caption


def chosen(seed: int) -> Choice:
    """A seed's side, height and beat: a dozen seeds in a row differ, two neighbours in both side and beat."""
    height = "high" if random.Random(seed).random() < 0.5 else "low"
    sides, beats = list(SIDES), list(BEATS)
    return Choice(sides[(seed + 1) % len(sides)], height, beats[seed % len(beats)])


def reseeded(shot: Shot, seed: int) -> Shot:
    """A shot with another seed, which chooses anew what the old one chose in its captions; all else stays."""
    captions = zip(shot.prompts, shot.captions, strict=True) if shot.captions else ()
    return replace(shot, seed=seed, captions=tuple(rechosen(*both, shot.seed, seed) for both in captions))


def rechosen(prompt: str, caption: str, old: int, new: int) -> str:
    """A caption with the new seed's choices in place of the old one's; words that are not the world's stay."""
    said, scene = parse(prompt), expand(caption).scene
    if dense(scene) != caption:
        return caption
    before, after = chosen(old), chosen(new)._asdict()
    free = [name for name in after if getattr(said, name) is None and getattr(scene, name) == getattr(before, name)]
    return dense(replace(scene, **{name: after[name] for name in free}))


def complete(said: Parsed, seed: int = 0) -> Expansion:
    subject = said.subjects[0] if said.subjects else inhabitant(said.place)
    place = said.place or ("ocean" if said.action == "surfing" else SUBJECTS[subject].home)
    action = said.action or default_action(subject, place)
    free = chosen(seed)
    scene = Scene(
        subject, action, place,
        size=said.size or "large",
        speed="normal" if action == "standing still" else said.speed or "normal",
        camera=said.camera or "still",
        side=said.side or free.side, height=said.height or free.height, beat=said.beat or free.beat,
        second=said.subjects[1] if len(said.subjects) > 1 else None,
    )  # fmt: skip
    unknown = list(dict.fromkeys(said.unknown))
    return Expansion(dense(scene), unknown, scene, [*said.subjects[2:], *said.more], said.read_as)


def begins(caption: str) -> float:
    """The time in the bar, in seconds, at which the scene of a caption begins."""
    return BEAT_OF[parse(caption).beat or next(iter(BEATS))]


def inhabitant(place: str | None) -> str:
    """A subject that lives in this place."""
    return next((name for name, subject in SUBJECTS.items() if subject.home == place), DEFAULT_SUBJECT)


def default_action(subject: str, place: str) -> str:
    """What a subject does by default: guests of the ocean surf, frontal fliers rise, others go where they look."""
    who = SUBJECTS[subject]
    if place == "ocean" and who.home != "ocean" and not who.flies:
        return "surfing"
    return "rising" if who.flies and not who.facing else FACING[who.facing]
