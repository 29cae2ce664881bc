"""What somebody should know of the captions of a dataset."""

from collections.abc import Iterator

from sora_cli.dataset.build import Asked, Networks
from sora_cli.dataset.captions import Captions

STRANGE = 0.05  # of the words of captions: what is worth a note


def remarks(asked: Asked, texts: dict[str, str], captions: Captions, networks: Networks) -> Iterator[str]:
    """What somebody should know of the captions, by the files that are used."""
    if strangers := captions.strangers:
        yield f"{captions.name} names {len(strangers)} files that are not there: {some(strangers)}"
    if wrong := [f"{file} ({reason})" for file, reason in captions.wrong.items()]:
        yield f"{len(wrong)} files beside clips are no captions: {some(wrong)}"
    if guesses := [f"{file} ({coding})" for file, coding in captions.guesses.items()]:
        yield f"{len(guesses)} files with captions are not in UTF-8, and read as what they look like: {some(guesses)}"
    if others := [file for clip in texts for file in captions.others(clip)]:
        yield f"{len(others)} files beside clips say something else than the caption that is used: {some(others)}"
    if silent := sum(not text for text in texts.values()):
        yield f"{silent} of {len(texts)} files have no caption: NAME.txt beside them, or --captions, gives them one"
    if long := networks.cut(texts):
        most = networks.tokenizer.most
        yield f"{len(long)} of {len(texts)} captions are longer than the {most} words that are read: {some(long)}"
    if (share := networks.strange(texts.values())) > STRANGE:
        yield (f"the text tower does not know {share:.0%} of the captions' words, and takes them all for one another; "
               f"`sora-cli train clip --data {asked.out}` makes one that does")  # fmt: skip


def some(names: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`"""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
