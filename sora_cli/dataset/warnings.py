"""What somebody should know of the captions of a dataset."""

from collections.abc import Iterator

from sora_cli.dataset.build import BuildConfig, Networks
from sora_cli.dataset.captions import Captions
from sora_cli.errors import among, be, counted, have

OOV_THRESHOLD = 0.05  # of the words of captions: what is worth a note


def caption_warnings(config: BuildConfig, texts: dict[str, str], captions: Captions,
                     networks: Networks) -> Iterator[str]:  # fmt: skip
    """What somebody should know of the captions, by the files that are used."""
    if unmatched := captions.unmatched:
        count = len(unmatched)
        yield f"{captions.name} names {counted(count, 'file')} that {be(count)} not there: {some(unmatched)}"
    if wrong := [f"{file} ({reason})" for file, reason in captions.wrong.items()]:
        yield f"{counted(len(wrong), 'file')} beside clips {be(len(wrong))} not read as captions: {some(wrong)}"
    if guesses := [f"{file} ({coding})" for file, coding in captions.guesses.items()]:
        count = len(guesses)
        yield f"{counted(count, 'file')} with captions {be(count)} not in UTF-8; guessed encodings: {some(guesses)}"
    if others := [file for clip in texts for file in captions.others(clip)]:
        count = len(others)
        yield (f"{counted(count, 'file')} beside clips {have(count)} a text that is not the caption in use: "
               f"{some(others)}")  # fmt: skip
    if silent := sum(not text for text in texts.values()):
        yield (f"{among(silent, len(texts), 'file')} {have(silent)} no caption: put NAME.txt beside each clip, or give "
               "--captions")  # fmt: skip
    if long := networks.cut(texts):
        count, most = len(long), networks.tokenizer.most
        yield (f"{among(count, len(texts), 'caption')} {be(count)} longer than the {most} words that are read: "
               f"{some(long)}")  # fmt: skip
    if (share := networks.oov_rate(texts.values())) > OOV_THRESHOLD:
        yield (f"the text tower does not know {share:.0%} of the captions' words, and reads them all as the same; "
               f"`sora-cli train clip --data {config.out}` makes one that knows them")  # fmt: skip


def some(names: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`"""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
