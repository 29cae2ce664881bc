"""One grammar, two densities: `dense` is what the model is trained on, `sparse` what people type, and `parse`
leads from the second, and from much else that people say, to the first. No torch."""

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, product

from sora_cli.world import camera
from sora_cli.world.camera import Match
from sora_cli.world.scene import Scene
from sora_cli.world.spelling import correct_spelling
from sora_cli.world.synonyms import ALSO, OTHERS
from sora_cli.world.vocabulary import ACTIONS, BEATS, CAMERAS, FIELDS, HEIGHTS, PLACES, SIDES, SIZES, SPEEDS, SUBJECTS

_STOP = frozenset("""
    a an the of to at on in and with is are its it from by into onto over through while that near among
""".split())
_QUIET = frozenset("""
    camera out off up down around back very some this there video clip movie scene shot emoji animation
    animated two one his her as for then us me show make shows showing seen being be was who which
    across along side next beside together surface background motion
    three four five six seven eight nine ten several many few couple pair group lots lot all each other like
    please create generate give want would could can you we i my our your their picture image footage frame screen
    doing does do performing performs beat under below above but
""".split())
_TRAVEL = ("moving", "going", "walking", "running", "flying", "driving", "swimming", "sailing", "travelling",
           "traveling", "heading", "sliding", "crawling", "gliding", "cruising", "marching", "drifting",
           "racing", "galloping", "riding", "rolling", "crossing", "strolling", "fluttering",
           "wandering", "trotting", "jogging", "chasing", "speeding", "sprinting", "dashing", "hurrying", "paddling",
           "cycling", "hiking", "sneaking", "prowling", "roaming", "flew", "ran", "swam", "went", "drove", "rode")
_DIRECTIONS = {
    "moving left": ("left", "leftwards", "leftward"),
    "moving right": ("right", "rightwards", "rightward"),
    "rising": ("up", "upwards", "upward"),
    "falling": ("down", "downwards", "downward"),
}
_TOWARDS = {"left side": "moving left", "right side": "moving right"}
_TRAVELLING = ("moving left", "moving right", "rising", "falling", "surfing", "circling", "floating")
_PLAIN = {"size": SIZES, "speed": SPEEDS, "side": SIDES, "height": HEIGHTS, "beat": BEATS}    # said as they are listed
# These give way to other places: "at night in the desert" is the desert.
_WEAK = {"night": "place?", "stars": "place?", "clouds": "place?", "sunset": "place?", "air": "place?",
         "midnight": "place?", "nighttime": "place?", "dusk": "place?", "sundown": "place?",
         "water": "place??", "waves": "place??", "big wave": "place??", "huge wave": "place??"}
_TAGS, _AS_EMOJI = re.compile(r"</?[a-z][^<>]*>"), "\ufe0f"
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}")  # two letters of a country
# What is said not to be there, or not to be done.
_NOT = frozenset("no not without never nor neither dont doesnt didnt isnt arent wont cant cannot".split())
_APOSTROPHES = re.compile(r"['’]s\b|['’]")
_PART = "(?: hand)? (?:side|half|edge|corner|third)"
_ONE_WORD = re.compile(r"\b(left|right)(side|of)\b")  # as the table below has them
# What says where something is or goes, by words that mean little alone, and how the table below has it.
_SAME = tuple((re.compile(rf"\b{said}\b"), meant_by) for said, meant_by in (
    (rf"(?:from )?(?:the )?(?:left|right)(?:{_PART})? to (?:the )?(left|right)(?:{_PART})?", r"\1wards"),
    (rf"(?:to|towards?) the (left|right){_PART}", r"\1wards"),
    (rf"(?:far )?(left|right){_PART}", r"\1side"),
    (r"(?:top|upper) (left|right)(?:side)?", r"high \1side"),
    (r"(?:bottom|lower) (left|right)(?:side)?", r"low \1side"),
    (r"(?:on|at|in|near) (?:the )?(?:far )?(left|right)", r"\1side"),
    (r"(left|right) of", r"\1of"),
    (r"and an?", "and some"),    # which keeps a unicorn and a horse apart, and is read over
    (r"(?:does not|doesnt|do not|dont|never) move", "standing still"),
))  # fmt: skip
_WHERE = {"space": "in", "outer space": "in", "moon": "on the", "beach": "at the", "sunset beach": "on the",
          "sunset": "at", "sea": "at", "underwater": "", "under the sea": "", "under water": "",
          "night": "at", "street": "on the", "grass": "on the", "shore": "on the", "on the moon": "",
          "hills": "on the", "sunset at the beach": "at", "ice": "on the", "lava": "near the",
          "volcano": "at the", "eruption": "at an", "aurora": "under the", "northern lights": "under the",
          "polar lights": "under the", "stage": "on the", "concert": "at a", "disco": "at the",
          "stars": "among the", "blue sky": "in a",
          "left side": "on the", "right side": "on the", "on the left": "", "on the right": ""}    # all others: in the


@dataclass(frozen=True)
class Parsed:
    """What a prompt says in the words of the world; None: not said. `unknown`: content words it lacks;
    `more`: words for what a scene has but once; `read_as`: misspelled words, and what they were taken for."""

    subjects: tuple[str, ...] = ()
    action: str | None = None
    place: str | None = None
    size: str | None = None
    speed: str | None = None
    camera: str | None = None
    side: str | None = None
    height: str | None = None
    beat: str | None = None
    unknown: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    read_as: dict[str, str] = field(default_factory=dict)


def dense(scene: Scene) -> str:
    """The canonical caption: every field, fixed order, at most 20 words."""
    second = f" and {_article(scene.second)} {scene.second}" if scene.second else ""
    return (f"a {scene.size} {scene.subject}{second} {scene.action} {scene.speed}, {scene.place}, "
            f"camera {scene.camera}, {scene.side}, {scene.height}, {scene.beat}")


def sparse(scene: Scene, rng: random.Random) -> str:
    """What someone might type for this scene: synonyms, and attributes dropped at random."""
    size = _say(rng, scene.size, SIZES, 0.3)
    subject = " ".join(filter(None, [size, _synonym(rng, scene.subject)]))
    subject = f"{_article(subject)} {subject}" if rng.random() < 0.7 else subject
    if scene.second and rng.random() < 0.9:
        other = _synonym(rng, scene.second)
        subject += f" and {_article(other)} {other}"
    action = _say(rng, scene.action, ACTIONS, 0.9)
    speed = _say(rng, scene.speed, SPEEDS, 0.5) if scene.speed != "normal" else ""
    place = _where(_say(rng, scene.place, PLACES, 0.6))
    camera = _say(rng, scene.camera, CAMERAS, 0.5) if scene.camera != "still" else ""
    words = [place, subject, action, speed] if rng.random() < 0.1 else [subject, action, speed, place]
    words += [_where(_say(rng, scene.side, SIDES, 0.3)), _say(rng, scene.height, HEIGHTS, 0.2),
              _say(rng, scene.beat, BEATS, 0.1)]  # fmt: skip
    return " ".join(filter(None, [*words, f"camera {camera}" if camera in CAMERAS else camera]))


def parse(prompt: str) -> Parsed:
    """Map a user's words to the vocabulary. The first mention of each field wins; subjects are all kept."""
    clauses = _said(prompt)
    read_as = {word: right for word in chain(*clauses) if word not in _KNOWN and (right := _meant(word))}
    found = [match for clause in clauses
             for match in camera.sorted_out(list(_matches([read_as.get(word, word) for word in clause])))]  # fmt: skip
    kinds: dict[str, list[str]] = {}
    for kind, value, _ in found:
        kinds.setdefault(kind, []).append(value)

    def first(*names: str) -> str | None:
        return next((kinds[name][0] for name in names if name in kinds), None)

    action, travels, beside = first("action"), "travel" in kinds, first("beside")
    if action in (None, "floating"):             # what floats to the left moves left
        towards = first("direction") or (_TOWARDS[beside] if beside and travels else None)
        action = towards or action or ("moving right" if travels else None)
    said = Parsed(tuple(dict.fromkeys(kinds.get("subject", ()))), action, first("place", "place?", "place??"),
                  first("size"), first("speed"), first("camera"), first("side") or (None if travels else beside),
                  first("height"), first("beat"), kinds.get("unknown", []), read_as=read_as)  # fmt: skip
    more = dict.fromkeys(_ONE_WORD.sub(r"\1 \2", match.words) for match in found if _is_more(match, said))
    return replace(said, more=list(more))


def _meant(word: str) -> str | None:
    """The known word that one is without its accents, or a misspelling of."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", word) if not unicodedata.combining(letter))
    return plain if plain in _KNOWN else correct_spelling(plain, _MEANING)


def _is_more(match: Match, said: Parsed) -> bool:
    """Whether something is said beside what a scene holds of its kind."""
    kind = match.kind.rstrip("?")
    if kind == "travel":
        return said.action not in _TRAVELLING
    if kind in ("action", "direction"):
        return match.value != said.action and not (match.value == "floating" and said.action in _TRAVELLING)
    return kind == "more" or kind in ("place", "camera", *_PLAIN) and match.value != getattr(said, kind)


def _said(prompt: str) -> list[list[str]]:
    """The words of a prompt, clause by clause, with one way to say what there are many for."""
    text = _APOSTROPHES.sub("", _TAGS.sub(" ", unicodedata.normalize("NFKC", prompt).lower().replace("-", " ")))
    for pattern, meant_by in (*_SAME, *camera.SAME):
        text = pattern.sub(meant_by, text)
    return [said for clause in camera.CLAUSE.split(text) if (said := tokens(clause))]


def words() -> list[str]:
    """Every word a dense or sparse caption can contain, sorted."""
    said: list[str] = ["a an and camera", *_WHERE.values(), "in the"]
    for table in FIELDS.values():
        said += [phrase for name, synonyms in table.items() for phrase in (name, *synonyms)]
    said += [phrase for s in SUBJECTS.values() for phrase in (s.name, *s.synonyms)]
    return sorted({word for phrase in said for word in phrase.split()})


def tokens(caption: str) -> list[str]:
    """Lower-case words of a caption in any script, and emojis; punctuation removed."""
    text = unicodedata.normalize("NFKC", caption).lower().replace("-", " ").replace(_AS_EMOJI, "")
    return "".join(map(_spaced, _FLAG.sub(r" \g<0> ", text))).split()


def _spaced(letter: str) -> str:
    """A letter of a word, an emoji as a word of its own, or what is between words."""
    kind = unicodedata.category(letter)
    if kind[0] in "LMN" or letter == "'" or "\U0001f1e6" <= letter <= "\U0001f1ff":  # of a flag
        return letter
    return f" {letter} " if kind == "So" else "" if kind == "Cf" else " "


def _article(phrase: str | None) -> str:
    return "an" if phrase and phrase[0] in "aeio" else "a"


def _synonym(rng: random.Random, name: str) -> str:
    synonyms = SUBJECTS[name].synonyms
    return rng.choice(synonyms) if synonyms and rng.random() < 0.3 else name


def _say(rng: random.Random, name: str, table: dict[str, tuple[str, ...]], chance: float) -> str:
    if rng.random() >= chance:
        return ""
    return rng.choice(table[name]) if table[name] and rng.random() < 0.4 else name


def _where(place: str) -> str:
    return f"{_WHERE.get(place, 'in the')} {place}".strip() if place else ""


def _verb_forms(verb: str) -> set[str]:
    """jumping -> jump, jumps, jumped ...; forms that no one says do no harm."""
    if not verb.endswith("ing"):
        return {verb}
    stem = verb[:-3]
    bases = {stem, stem + "e", *([stem[:-1]] if stem[-1] == stem[-2] else [])}
    ends = {base + end for base in bases for end in ("", "s", "es", "ed", "d")}
    return {verb, *ends, *({stem[:-1] + "ies"} if stem[-1] == "y" else set())}


def _plurals(noun: str) -> set[str]:
    return {noun, noun + "s", noun + "es", *([noun[:-1] + "ies"] if noun.endswith("y") else [])}


def _key(phrase: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for word in phrase if word not in _STOP)


def _entries() -> Iterator[tuple[list[str], str, str]]:
    """(phrase, field, value) of everything that can be said."""
    for verb in _TRAVEL:
        yield from (([form], "travel", verb) for form in _verb_forms(verb))
    for place, synonyms in PLACES.items():
        for *rest, noun in _phrases(place, *synonyms):
            kind = _WEAK.get(" ".join([*rest, noun]), "place")
            yield from (([*rest, form], kind, place) for form in (noun, noun + "s", noun.removesuffix("s")))
    for kind, table in _PLAIN.items():
        for name, synonyms in table.items():
            yield from ((phrase, kind, name) for phrase in _phrases(name, *synonyms))
    for name, phrases in _DIRECTIONS.items():        # after the sides: "left" alone is where something goes
        yield from ((phrase.split(), "direction", name) for phrase in phrases)
    for way, side in (("left", "left side"), ("right", "right side")):
        yield from (([f"{way}side"], "side", side), ([f"{way}of"], "beside", side))
    for name, synonyms in CAMERAS.items():
        yield ["camera", *name.split()], "camera", name
        for phrase in _phrases(*(() if name == "still" else (name,)), *synonyms):
            yield from ((list(said), "camera", name) for said in product(*map(_verb_forms, phrase)))
    for name, synonyms in ACTIONS.items():
        for head, *rest in _phrases(name, *synonyms):
            yield from (([form, *rest], "action", name) for form in _verb_forms(head))
    yield ["still"], "action", "standing still"
    for subject in SUBJECTS.values():
        for *rest, noun in _phrases(subject.name, *subject.synonyms):
            yield from (([*rest, form], "subject", subject.name) for form in _plurals(noun))
        yield [subject.emoji], "subject", subject.name
    yield from ((phrase.split(), "unknown", phrase) for phrase in OTHERS)


def _phrases(*names: str) -> Iterator[list[str]]:
    """Names and synonyms, with what else people say for them, in words."""
    for name in names:
        yield name.split()
        yield from (phrase.split() for phrase in ALSO.get(name, "").split(",") if phrase)


def _written() -> Iterator[tuple[str]]:
    """Words that say something by themselves, as they are listed above and in the vocabulary."""
    for table in (ACTIONS, PLACES, *_PLAIN.values()):
        yield from ((phrase[0],) for phrase in _phrases(*chain(table, *table.values())) if len(phrase) == 1)
    for subject in SUBJECTS.values():
        for *rest, noun in _phrases(subject.name, *subject.synonyms):
            yield from ((form,) for form in (noun, noun + "s") if not rest)
    yield from ((verb,) for verb in _TRAVEL)


_TABLE = {_key(phrase): (kind, name) for phrase, kind, name in _entries()}
_LONGEST = max(map(len, _TABLE))
_KNOWN = {word for phrase in _TABLE for word in phrase} | _STOP | _QUIET
# Words that may be meant by misspelled ones, and what they mean: all that are written out here, with plurals.
_MEANING = {key[0]: _TABLE[key] for key in _written() if key in _TABLE}


def _matches(said: list[str]) -> Iterator[Match]:
    """Greedy longest matches from left to right; what matches nothing and carries meaning is unknown, and so is what is
    not to be seen, with the word that says so."""
    left = list(_key(said))
    while left:
        size = _longest(left)
        if not size and left[0] in _NOT and (size := _longest(left[1:])):
            size += 1
            denied = " ".join(left[:size])
            yield Match("unknown", denied, denied)
        elif size:
            yield Match(*_TABLE[tuple(left[:size])], " ".join(left[:size]))
        elif left[0] == camera.LOOKED_AT:
            yield Match("more", "", "camera")
        elif left[0] in camera.LENS:
            yield Match("lens", "", left[0])
        elif left[0] not in _QUIET and not left[0].isdigit():
            yield Match("unknown", left[0], left[0])
        del left[: size or 1]


def _longest(said: list[str]) -> int:
    """How many of these words, from the first on, have a meaning together."""
    return next((n for n in range(min(_LONGEST, len(said)), 0, -1) if tuple(said[:n]) in _TABLE), 0)
