"""The sentence in an answer of a language model, or why there is none: it thinks aloud, wraps what it says, refuses,
asks back, says the same over and over, or stops in the middle. No torch.
"""

import json
import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from typing import Any

from sora_cli.errors import JOINERS, Failed
from sora_cli.prompts.llm import refusals, wording

LONGEST, MOST = 2000, 50_000  # characters of a sentence, and of an answer with all that is thought in it
CUT = ("length", "max_tokens", "max_length", "model_length", "abort", "error")  # how an answer ends that is not whole
FILTERED = ("content_filter", "safety", "recitation", "refusal")
FAULTS = {"error", "errors", "exception", "detail", "code", "status"}  # keys of no answer
KEYS = ("caption", "description", "answer", "text", "prompt", "sentence", "output", "response", "content", "result")


def sentence(answer: str, finish: str, who: str) -> str:
    """What an answer says on one line, without thoughts, wrappings and courtesies; Failed, naming `who` and why, where
    it says nothing that could be a caption. `finish` is the server's word for how it ended."""
    text = unwrapped(answer[:MOST])
    if fault := ending(finish.lower()) or fault_of(text):
        raise Failed(f"{who} answers {fault}{quoted(text)}")
    return text


def ending(finish: str) -> str:
    """The fault that the server's finish reason tells; "" for none."""
    return "with a text that is cut off" if finish in CUT else "with a refusal" if finish in FILTERED else ""


def quoted(text: str) -> str:
    """The beginning of an answer, for a line that says what is wrong with it."""
    return f': "{text[:60]}{"..." if len(text) > 60 else ""}"' if text else ""


def printable(text: str) -> str:
    """A text without terminal codes, direction marks and other invisible characters."""
    text = unicodedata.normalize("NFC", wording.CODES.sub("", text))
    return "".join(" " if letter.isspace() else letter for letter in text
                   if letter.isprintable() or letter.isspace() or letter in JOINERS).strip()  # fmt: skip


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


# ---- out of its wrappings -------------------------------------------------------------------------------------


def unwrapped(answer: str) -> str:
    """The words of an answer themselves."""
    text = aloud(answer)
    for _ in range(4):  # "Sure: ```{"caption": "..."}```" has several layers
        inner = bare(out_of_json(out_of_fence(text.strip())))
        if inner == text:
            break
        text = inner
    return one_line(text)


def aloud(answer: str) -> str:
    """An answer without what was thought before it; "" where it never comes to an end of that."""
    if channels := list(wording.CHANNEL.finditer(answer)):
        last = channels[-1]
        answer = answer[last.end() :] if last[1].lower() == "final" else ""
    answer = thoughtless(wording.BARE_CHANNEL.sub("", answer))
    answer = wording.CLOSE.split(answer)[-1]  # templates put the opening mark into the question
    answer = wording.OPEN.split(answer)[0] if not wording.OPEN.match(answer.strip()) else ""
    answer = next((piece for piece in wording.ENDS.split(answer) if piece.strip()), "")
    answer = wording.SPEAKER.sub("", answer)
    answer = wording.SOLUTION.sub("", inside_tags(answer))
    return titled(boxed[-1] if (boxed := wording.BOXED.findall(answer)) else answer)


def titled(answer: str) -> str:
    """What stands under the last heading that calls it the caption, unless that is the first line."""
    last = deque(wording.SECTION.finditer(answer), 1)
    if not last or not answer[: last[0].start()].strip():
        return answer
    under = wording.HEADING.split(answer[last[0].end() :])[0]
    return under if under.strip() else answer


def thoughtless(answer: str) -> str:
    """An answer without all that is between opening and closing marks of thoughts, read once however many there are."""
    kept, at = [], 0
    while (begin := wording.OPEN.search(answer, at)) and (end := wording.CLOSE.search(answer, begin.end())):
        kept.append(answer[at : begin.start()])
        at = end.end()
    return "".join([*kept, answer[at:]])


def inside_tags(answer: str) -> str:
    """What is in the first pair of tags around an answer; all of it where there are none."""
    unclosed = set()
    for begin in wording.WRAPPING.finditer(answer):
        tag = begin[1].lower()
        end = None if tag in unclosed else re.compile(f"</{tag}>", re.IGNORECASE).search(answer, begin.end())
        if end:
            return answer[begin.end() : end.start()]
        unclosed.add(tag)
    return answer


def out_of_fence(text: str) -> str:
    blocks = [block for block in wording.FENCE.findall(text) if block.strip()]
    return blocks[0] if len(blocks) == 1 else text


def out_of_json(text: str) -> str:
    """The text in an object, a list or a string of JSON; anything else as it is."""
    if text[:1] not in ('{', '[', '"'):
        return text
    try:
        found = list(texts_in(json.loads(text)))
    except (ValueError, RecursionError):
        return text
    return found[0] if len(found) == 1 else text


def texts_in(value: Any) -> Iterator[str]:
    """The texts that a value of JSON may be meant to say."""
    if isinstance(value, dict) and FAULTS & {str(key).lower() for key in value}:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        named = [value[key] for key in value if str(key).lower() in KEYS]
        for item in named[:1] or value.values():
            yield from texts_in(item)


def bare(text: str) -> str:
    """A text without courtesies, marks of Markdown and quotes around it."""
    text = wording.BULLET.sub("", wording.BOLD.sub(r"\2", wording.LINK.sub(r"\1", text.strip()))).strip()
    text = wording.TEX.sub(r"\1", text)
    start = wording.PREAMBLE.match(text.replace("’", "'"))
    text = text[start.end() :] if start and start.end() < len(text) else text
    text = wording.AFTERWORD.sub("", text.replace("\r", "\n")).strip()
    closing = wording.QUOTES.get(text[:1])
    whole = closing and len(text) > 1 and text.endswith(closing) and closing not in text[1:-1]
    return text[1:-1].strip() if whole else text


# ---- what is none ---------------------------------------------------------------------------------------------


def fault_of(text: str) -> str:
    """Why a text cannot be a caption; "" if it can."""
    plain = re.sub("[’‘ʼ`´＇]", "'", text)
    unspoken = refusals.QUOTED.sub("", plain)  # what is written on a sign is not said by the model
    if not any(letter.isalpha() for letter in text) or "\ufffd" in text or wording.NULL.match(text):
        return "with nothing" if not text else "with nonsense"
    if len(text) > LONGEST:
        return f"with {len(text)} characters; at most {LONGEST} are allowed"
    if wording.MARKS.search(text) or wording.ALOUD.match(plain):
        return "with its thoughts"
    if wording.ERROR.match(text):
        return "with an error"
    spoken_to = any(pattern.search(unspoken) for pattern in (wording.REFUSAL, wording.REQUEST))
    if wording.SORRY.match(plain) or spoken_to or refusals.refused(plain):
        return "with a refusal"
    if wording.QUESTION.search(plain):
        return "with a question"
    if loops(text):
        return "with the same words over and over"
    return "with half a sentence" if wording.UNFINISHED.search(text) else ""


def loops(text: str) -> bool:
    """Whether a text says the same over and over: letters, phrases, or much of what it says."""
    words = re.findall(r"\w+", text.casefold())
    threes = [*zip(words, words[1:], words[2:], strict=False)]
    phrases = any(repeats(words, size, {1: 5, 2: 4}.get(size, 3)) for size in range(1, len(words) // 3 + 1))
    return bool(wording.LOOP.search(text)) or phrases or len(threes) >= 20 and len(set(threes)) < 0.6 * len(threes)


def repeats(words: list[str], size: int, times: int) -> bool:
    """Whether some phrase of so many words is said so many times in a row."""
    streak = 0
    for before, now in zip(words, words[size:], strict=False):
        streak = streak + 1 if before == now else 0
        if streak >= size * (times - 1):
            return True
    return False
