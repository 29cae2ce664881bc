"""What of prompts has no effect: what other programs have their users write into them, and what is unread. No torch."""

import re
from collections.abc import Iterator

from sora_cli.shot import Shot

WAYS = re.compile(
    r"</?[A-Za-z][^<>]*>"                          # <lora:name:1>, <my-token>, <b>
    r"|\([^()]*:\s*-?\d*\.?\d+\s*\)"               # (cat:1.3)
    r"|\(+[^()]*\)+[+-]*|\[+[^\[\]]*\]+|\{[^{}]*[|}]"    # (cat), ((cat)), [dog], [a:b:8], {a|b}
    r"|\w+(?:\+{1,}|-{2,})(?!\w)"                  # cat++, cat--
    r"|\S+::-?\d*\.?\d*|\B--[a-z]\w*(?: [\d:.]+)?"       # cat::2, --ar 16:9
    r"|\b[Nn]egative(?: prompt)?:|\b(?:Steps|Sampler|CFG scale|Clip skip|Denoising strength): *[^,\n]+"
    r"|\b(?:BREAK|AND|ADDCOMM|ADDBASE|ADDROW|ADDCOL)\b|\b(?:embedding|wildcard):\S+|__[\w/-]+__"
)  # fmt: skip


def foreign(text: str) -> list[str]:
    """The pieces of a prompt in the notation of other programs, each once, in order."""
    found = dict.fromkeys(match[0].strip() for match in WAYS.finditer(text))
    return [one for one in found if not (one.isalpha() and text.isupper())]  # in which AND is a word


def unheard(shot: Shot, default_negative: str) -> Iterator[str]:
    """Notes on parts of a shot's prompts without effect; `default_negative` is the model's negative prompt."""
    if set(shot.guidances) == {0}:
        yield "the prompt does nothing at --guidance 0; 1 follows it as it is, and more follows it closer"
    if shot.negative.strip() and set(shot.guidances) == {1} and shot.negative != default_negative:
        yield "--negative does nothing at --guidance 1; it needs a higher guidance"
    if found := dict.fromkeys(one for text in (*shot.prompts, shot.negative) for one in foreign(text)):
        pieces = ", ".join(one[:40] for one in list(found)[:8])
        yield f"weights and other notation of other programs have no effect; their words are read as usual: {pieces}"
