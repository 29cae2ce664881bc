"""The sentences that a captioner may say, and the likeliest of them. Words are numbers of a tokenizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from sora_cli.models.sora.text import Tokenizer, words

Said = tuple[int, ...]


class Grammar:
    """Sentences of one phrase from each slot, in the order of the slots. An empty phrase leaves its slot out.

    Phrases have their punctuation before them: "cat", "surfing", ", ocean". Nothing is said twice: after "cat" there is
    no "and a cat"."""

    def __init__(self, slots: Sequence[Sequence[str]], tokenizer: Tokenizer) -> None:
        self.slots = [[(text, tuple(tokenizer.ids[word] for word in words(text))) for text in slot] for slot in slots]
        self.end = tokenizer.end

    def next(self, said: Said) -> set[int]:
        """The words that may follow, including the end of the text."""
        return {rest[0] if rest else self.end for _, rest in self.read(said)}

    def read(self, said: Said, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Said]]:
        """All that these words, which follow phrases `before`, may be: whole phrases, and the rest of one that they
        break off in; there is none of a whole sentence."""
        if len(before) == len(self.slots):
            if not said:
                yield before, ()
            return
        for text, phrase in self.open(before):
            if said[: len(phrase)] == phrase:
                yield from self.read(said[len(phrase) :], (*before, text))
            elif phrase[: len(said)] == said:
                yield before, phrase[len(said) :]

    def open(self, before: tuple[str, ...]) -> list[tuple[str, Said]]:
        """The phrases of the slot after these ones, without what they say already."""
        said = tuple(f" {text}" for text in before if text)
        return [(text, phrase) for text, phrase in self.slots[len(before)] if not f" {text}".endswith(said)]

    def phrases(self, said: Said) -> tuple[str, ...] | None:
        """The phrases of a complete sentence; None if it is not one."""
        return next((phrases for phrases, rest in self.read(said) if not rest), None)

    def written(self, said: Said) -> str:
        """A whole sentence as text."""
        phrases = self.phrases(said)
        assert phrases is not None, f"{said} is no sentence"
        return " ".join(filter(None, phrases)).replace(" ,", ",")


def vocabulary(grammars: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Every word of some grammars' slots, sorted."""
    texts = [text for slots in grammars.values() for slot in slots for text in slot]
    return sorted({word for text in texts for word in words(text)})


def likeliest(scores: Callable[[Said], Tensor], allowed: Callable[[Said], Sequence[int]], end: int, most: int) -> Said:
    """A text word by word, the likeliest of what is allowed each time, until its end or `most` words.

    `scores` of what was said are those of the next word, [clips, vocabulary]: several clips of one video agree on one
    text, by the mean of their log-probabilities."""
    said: Said = ()
    while len(said) < most:
        options = allowed(said)
        best = options[0]
        if len(options) > 1:
            best = options[int(scores(said).float().log_softmax(-1).mean(0)[list(options)].argmax())]
        if best == end:
            break
        said += (best,)
    return said
