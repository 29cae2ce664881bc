"""From what somebody types to the caption the model was trained on, by the grammar of the world. No torch."""

from dataclasses import dataclass, field, replace

from sora_cli.shot import Shot
from sora_cli.world.captions import Parsed, dense, parse
from sora_cli.world.scene import Scene
from sora_cli.world.vocabulary import SUBJECTS

ANYBODY = "cat"      # when neither subject nor place is said
FACING = {-1: "moving left", 0: "bouncing", 1: "moving right"}     # what a subject does unless told


@dataclass(frozen=True)
class Expansion:
    """The dense caption, the scene it describes, and what of the prompt is not in it."""

    caption: str
    unknown: list[str]                   # words that the model never learned, each once
    scene: Scene
    left_out: list[str] = field(default_factory=list)    # known subjects beyond the two that fit a scene
    read_as: dict[str, str] = field(default_factory=dict)    # misspelled words, and what they were taken for


def captions_of(shot: Shot, grammar: bool) -> list[str]:
    """What is read for the prompt and every cue: the shot's captions, or else, for a model that was trained on the
    grammar, what that makes of them. An empty prompt stays empty: anchors show what is meant."""
    if shot.captions or not grammar:
        return list(shot.captions or shot.prompts)
    return [expand(prompt).caption if prompt.strip() else "" for prompt in shot.prompts]


def expand(prompt: str) -> Expansion:
    """Fill in what the prompt leaves open: home place, fitting action, large, normal speed, camera still."""
    return complete(parse(prompt))


def expand_with(prompt: str, told: Parsed) -> Expansion:
    """The same, but filled in as somebody else tells it; what the prompt says stays."""
    said = parse(prompt)
    fields = ("subjects", "action", "place", "size", "speed", "camera")
    return complete(replace(said, **{name: getattr(said, name) or getattr(told, name) for name in fields}))


def complete(said: Parsed) -> Expansion:
    subject = said.subjects[0] if said.subjects else inhabitant(said.place)
    place = said.place or ("ocean" if said.action == "surfing" else SUBJECTS[subject].home)
    action = said.action or habit(subject, place)
    scene = Scene(
        subject, action, place,
        size=said.size or "large",
        speed="normal" if action == "standing still" else said.speed or "normal",
        camera=said.camera or "still",
        second=said.subjects[1] if len(said.subjects) > 1 else None,
    )  # fmt: skip
    return Expansion(dense(scene), unknown(said), scene, list(said.subjects[2:]), said.read_as)


def unknown(said: Parsed) -> list[str]:
    return list(dict.fromkeys(said.unknown))


def inhabitant(place: str | None) -> str:
    """Somebody who is at home in this place."""
    return next((name for name, subject in SUBJECTS.items() if subject.home == place), ANYBODY)


def habit(subject: str, place: str) -> str:
    """What a subject does when the prompt does not say: guests of the ocean surf, fliers that look at us
    rise, the others go where they look."""
    who = SUBJECTS[subject]
    if place == "ocean" and who.home != "ocean" and not who.flies:
        return "surfing"
    return "rising" if who.flies and not who.facing else FACING[who.facing]
