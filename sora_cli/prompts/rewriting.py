"""Prompts in the words of an LLM: asked through an OpenAI-compatible endpoint, held against what a caption must be, and
kept on disk. Nothing here is reached unless somebody gave a URL. No torch.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.prompts import cache
from sora_cli.prompts.grammar import expand_with
from sora_cli.prompts.llm import Server, sentence
from sora_cli.shot import Shot
from sora_cli.world.captions import parse
from sora_cli.world.vocabulary import ACTIONS, CAMERAS, HEIGHTS, PLACES, SIDES, SIZES, SPEEDS, SUBJECTS

MOST = 2000  # tokens of an answer; models that think aloud need many
MOST_KEPT = 1000  # answers on disk
FEWEST_WORDS = 12  # of a detailed caption

WORLD = f"""You write captions for a small video model that knows only the words listed here. Rewrite the prompt as one
line of exactly this form: a SIZE SUBJECT ACTION SPEED, PLACE, camera CAMERA. For two subjects: a SIZE SUBJECT and a
SUBJECT ACTION SPEED, PLACE, camera CAMERA. For example: a large cat surfing normal, ocean, camera still
SIZE: {", ".join(SIZES)}
SUBJECT: {", ".join(SUBJECTS)}
ACTION: {", ".join(ACTIONS)}
SPEED: {", ".join(SPEEDS)}
PLACE: {", ".join(PLACES)}
CAMERA: {", ".join(CAMERAS)}
Only where the prompt says where in the picture the subject is, add it at the end: , SIDE or , HEIGHT or , SIDE, HEIGHT
SIDE: {", ".join(SIDES)}
HEIGHT: {", ".join(HEIGHTS)}
Keep what the prompt says. For a word that is not listed take the nearest in meaning; for what is left open take what
suits the subject. Answer with that line alone."""

DETAILED = """You write captions for a text-to-video model that was trained on long, detailed English captions. Rewrite
the prompt, whatever its language, as one English paragraph of 80 to 120 words: the subject and its looks, what it does
and how it moves, the surroundings, the light, the camera and the style. Keep the intent: add details, and change, leave
out or contradict nothing; names, numbers and quoted words stay. Answer with that paragraph alone."""


def rewrite_prompts(shot: Shot, writer: Server, given: Sequence[str], world: bool) -> tuple[str, ...]:
    """The captions of a shot, for a model that was trained on the world (where they leave open what a seed chooses) or
    for one of real footage; an empty prompt stays empty. Failed, saying who does not do what."""
    captions: list[str] = []
    for number, prompt in enumerate(shot.prompts):
        context = [f"the part before it, described as: {shot.prompts[number - 1]}"] if number else []
        question = request(prompt, [*given, *context])
        captions.append(caption(prompt, question, writer, world) if prompt.strip() else "")
    return tuple(captions)


def request(prompt: str, given: Sequence[str]) -> str:
    """The question to the LLM: the prompt, and the files and earlier prompts that it has to fit."""
    lines = [f"Prompt: {prompt}", *(["The video has to fit what is given (you see its name only):"] if given else [])]
    return "\n".join([*lines, *(f"- {one}" for one in given)])


def caption(prompt: str, question: str, writer: Server, world: bool) -> str:
    """A caption from the cache, or from the LLM, then cached."""
    task = WORLD if world else DETAILED
    asked = json.dumps([writer.url, writer.model, task, question])
    path = folder() / f"{hashlib.sha256(asked.encode()).hexdigest()}.txt"
    with suppress(OSError, ValueError, Failed):
        return checked(sentence(path.read_text(encoding="utf-8"), "", str(writer)), prompt, writer, world)
    answer = writer.answer([{"role": "system", "content": task}, {"role": "user", "content": question}], MOST)
    found = checked(answer, prompt, writer, world)
    keep(path, answer)
    return found


# ---- reading ----------------------------------------------------------------------------------------------


def checked(answer: str, prompt: str, writer: Server, world: bool) -> str:
    """The caption in an answer: what it adds to the prompt within the vocabulary, or its prose, which is words of
    letters and enough of them; Failed where it could be none."""
    if world:
        parsed = parse(answer)
        prose = len(parsed.unknown) > max(4, len(answer.split()) // 3)  # that happens to have some of the words
        nonsense = not parsed.subjects or not (parsed.action or parsed.place) or prose
    else:
        words = re.findall(r"[a-z]+", answer.lower())
        nonsense = len(words) < FEWEST_WORDS or sum(map(len, words)) < 0.6 * len(answer)
    if nonsense:
        raise Failed(f"{writer} answers with nonsense")
    return expand_with(prompt, parsed) if world else answer


# ---- keeping ----------------------------------------------------------------------------------------------


def folder() -> Path:
    return cache.default_folder().with_name("expansions")


def keep(path: Path, answer: str) -> None:
    """Cache an answer atomically, and remove the oldest ones; errors are ignored."""
    with suppress(OSError, SoraError):
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.write(path, answer.encode())
        there = sorted(path.parent.glob("*.txt"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
        for old in there[MOST_KEPT:]:
            old.unlink(missing_ok=True)
