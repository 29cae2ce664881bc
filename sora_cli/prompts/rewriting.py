"""Prompts in the words of an LLM: asked through an OpenAI-compatible endpoint, held against what a caption must be, and
kept on disk. Nothing here is reached unless somebody gave a URL. No torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.prompts import cache
from sora_cli.prompts.grammar import expand_with
from sora_cli.shot import LONGEST_PROMPT, Shot
from sora_cli.world.captions import parse
from sora_cli.world.vocabulary import ACTIONS, CAMERAS, HEIGHTS, PLACES, SIDES, SIZES, SPEEDS, SUBJECTS

PATIENCE = 20.0  # seconds that an answer may take
MOST_KEPT = 1000  # answers on disk
KEY = "SORA_EXPAND_KEY"  # the environment variable with the endpoint's key
NOBODY = "none"  # the key where there is none: the client would send that of the Hub
NONSENSE = "with nonsense"
FEWEST_WORDS = 12  # of a detailed caption
THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
REFUSAL = re.compile(r"(i'?m |i am )?(sorry|afraid)\b|i (can'?t|cannot|can not|won'?t)\b|as an ai\b", re.IGNORECASE)

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


@dataclass(frozen=True)
class Writer:
    """An LLM and where it is asked."""

    url: str
    model: str = ""

    @classmethod
    def parse(cls, text: str, model: str | None = None) -> "Writer":
        """URL or URL#MODEL; SoraError for anything else."""
        try:
            parts = urlsplit(text)
            known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            known = False
        if not known or not text.isascii() or not text.isprintable() or " " in text:
            raise SoraError(f"--expand {text!a} is no address; it must look like http://localhost:11434/v1#MODEL")
        if "@" in parts.netloc:
            raise SoraError(f"--expand has a password in its address; put the key into the variable {KEY} instead")
        if parts.fragment and model:
            raise SoraError("--expand-model and the # of --expand both name the LLM; give one of them")
        return cls(parts._replace(fragment="").geturl(), model or unquote(parts.fragment))

    def __str__(self) -> str:
        return urlsplit(self.url).netloc + urlsplit(self.url).path


def rewritten(shot: Shot, writer: Writer, given: Sequence[str], world: bool) -> tuple[str, ...]:
    """The captions of a shot, for a model that was trained on the world (where they leave open what a seed chooses) or
    for one of real footage; an empty prompt stays empty. Failed, saying who does not do what."""
    captions: list[str] = []
    for number, prompt in enumerate(shot.prompts):
        context = [f"the part before it, described as: {shot.prompts[number - 1]}"] if number else []
        question = request(prompt, [*given, *context])
        captions.append(caption(prompt, question, writer, world) if prompt.strip() else "")
    return tuple(captions)


def request(prompt: str, given: Sequence[str]) -> str:
    """The prompt, and what else there is to fit, in the words of the question."""
    lines = [f"Prompt: {prompt}", *(["The video has to fit what is given (you see its name only):"] if given else [])]
    return "\n".join([*lines, *(f"- {one}" for one in given)])


def caption(prompt: str, question: str, writer: Writer, world: bool) -> str:
    """A caption from the disk, or from the LLM and then on the disk."""
    task = WORLD if world else DETAILED
    asked = json.dumps([writer.url, writer.model, task, question])
    path = folder() / f"{hashlib.sha256(asked.encode()).hexdigest()}.txt"
    with suppress(OSError, ValueError, Failed):
        return checked(path.read_text(encoding="utf-8"), prompt, writer, world)
    answer = within(PATIENCE, writer, task, question)
    found = checked(answer, prompt, writer, world)
    keep(path, answer)
    return found


# ---- asking -----------------------------------------------------------------------------------------------


def within(seconds: float, writer: Writer, task: str, question: str) -> str:
    """The answer, if it is there in so many seconds, however slowly it drips; Failed otherwise."""
    answers: Queue[str | Failed] = Queue()
    Thread(target=lambda: answers.put(answer_of(seconds, writer, task, question)), daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        answer = too_late(writer, seconds)
    if isinstance(answer, Failed):
        raise answer
    return answer


def answer_of(seconds: float, writer: Writer, task: str, question: str) -> str | Failed:
    """What the LLM says, or why it says nothing."""
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled

    # of the library that the client speaks HTTP with, whichever that is
    failures = cast(type[Exception], HfHubHTTPError.__mro__[1])
    client = InferenceClient(base_url=writer.url, api_key=os.environ.get(KEY) or NOBODY, timeout=seconds)
    messages = [{"role": "system", "content": task}, {"role": "user", "content": question}]
    try:
        said: Any = client.chat_completion(messages, model=writer.model or None, max_tokens=2000, temperature=0)
        return str(said.choices[0].message.content or "")
    except InferenceTimeoutError:
        return too_late(writer, seconds)
    except OfflineModeIsEnabled:
        return Failed(f"{writer} is not asked, since HF_HUB_OFFLINE is set")
    except HfHubHTTPError as error:
        return Failed(f"{writer} answers {error.response.status_code}{reason(error.response.text)}")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Failed(f"{writer} answers with something else than a chat completion")
    except (failures, OSError) as error:
        return Failed(f"{writer} cannot be reached{reason(str(error))}")


def too_late(writer: Writer, seconds: float) -> Failed:
    return Failed(f"{writer} does not answer in {seconds:g} s")


def reason(text: str) -> str:
    """What an endpoint says of an error, or an error of itself, in a few words of one line."""
    with suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]["message"]
    line = " ".join(str(text).split())
    return f" ({line[:120]})" if line and line.isprintable() else ""


# ---- reading ----------------------------------------------------------------------------------------------


def checked(answer: str, prompt: str, writer: Writer, world: bool) -> str:
    """The caption in an answer; Failed where there is none, or nothing that could be one."""
    text = THOUGHTS.sub("", answer).strip().strip("`\"'“”")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if not text:
        raise Failed(f"{writer} answers with nothing")
    if len(text) > LONGEST_PROMPT:
        raise Failed(f"{writer} answers with {len(text)} characters, and at most {LONGEST_PROMPT} are read")
    if REFUSAL.match(text) or any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise Failed(f"{writer} answers {NONSENSE}")
    return in_the_world(text, prompt, writer) if world else detailed(text, writer)


def in_the_world(text: str, prompt: str, writer: Writer) -> str:
    """An answer within the vocabulary: what it adds to what the prompt says."""
    told = parse(text)
    if not told.subjects or not (told.action or told.place):
        raise Failed(f"{writer} answers {NONSENSE}")
    return expand_with(prompt, told)


def detailed(text: str, writer: Writer) -> str:
    """An answer that is prose: words of letters, enough of them, and not the same ones over and over."""
    words = re.findall(r"[a-z]+", text.lower())
    if len(words) < FEWEST_WORDS or sum(map(len, words)) < 0.6 * len(text) or len(set(words)) < 0.3 * len(words):
        raise Failed(f"{writer} answers {NONSENSE}")
    return text


# ---- keeping ----------------------------------------------------------------------------------------------


def folder() -> Path:
    return cache.default_folder().with_name("expansions")


def keep(path: Path, answer: str) -> None:
    """An answer on the disk, whole or not at all, and no more of them than a few; that it works is nobody's need."""
    with suppress(OSError, SoraError):
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.write(path, answer.encode())
        there = sorted(path.parent.glob("*.txt"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
        for old in there[MOST_KEPT:]:
            old.unlink(missing_ok=True)
