"""What a prompt says of the camera, so that it is not taken for what the subject does. No torch."""

import re
from typing import NamedTuple


class Match(NamedTuple):
    kind: str   # the field of a caption, or what leads to one
    value: str  # as captions have it
    words: str  # as it was said


LENS = ("camera", "cam", "lens", "shot")  # words after which the camera is meant, until a subject is named
HOLDS = frozenset("""
    hold holds holding held stay stays staying remain remains remaining keep keeps keeping kept lock locks locked sits
    static fixed steady stationary unmoving tripod motionless
""".split())
LOOKED_AT = "thecamera"  # one that is in the scene, or that somebody looks at
WAYS = {"standing still": "still", "moving left": "pan left", "moving right": "pan right",  # of a subject, of a camera
        "left side": "pan left", "right side": "pan right"}  # fmt: skip
MOTION = ("action", "travel", "direction", "beside", "speed")
_STILL = r"(?:static|fixed|stationary|locked|steady|unmoving|(?:(?<=\ba )|(?<=\bthe ))(?:still|motionless))"
_GOES = (r"(?:moves?|moving|push(?:es|ing)?|doll(?:y|ies|ying)|glides?|gliding|gets?|getting|comes?|goes|going|"
         r"pull(?:s|ing)?)")  # fmt: skip
_SHOWS = r"(?:camera|shot|zoom(?:s|ing)? (?:in|out)|pan(?:s|ning)? (?:left|right)|close up)"
# Ways to say the same, and how the vocabulary has them.
SAME = tuple((re.compile(rf"\b{said}\b"), standard) for said, standard in (
    (r"(?:at|to|towards?|into|past|front of|facing|behind|beside|holding|carrying) (?:the|an?|its|his|her) "
     r"(?:camera|lens)\b(?! \w+ing)|with (?:a|its|his|her) camera(?! \w+ing)", LOOKED_AT),
    (r"((?:orbit|circl|rotat|spinn|ris|descend|fall|spirall?)ing) (?:shot|view)", r"camera \1,"),
    (r"(pan(?:s|ning)?) (left|right)wards", r"\1 \2"),
    (r"(?:(?<=[,;:.!?] )|^)((?:slow |fast |quick )?)tilt(?:s|ing)? (up|down)", r"\1camera tilts \2,"),
    (rf"{_STILL}(?: (?:off|down))? (?:camera|cam|shot|frame|view)", "camera still,"),
    (r"(?:no|without(?: any)?) camera (?:movements?|motion)", "camera still,"),
    (r"camera (?:does not|doesnt|is not|isnt|never|not) mov(?:e|es|ing)", "camera still,"),
    (rf"camera ((?:\w+ly )?){_GOES} (?:in|closer|forwards?|towards?)", r"camera \1zooms in"),
    (rf"camera ((?:\w+ly )?){_GOES} (?:out|back|backwards?|away)", r"camera \1zooms out"),
    (r"(?:dolly|push|dollies|pushes) in", "zoom in"), (r"(?:dolly|dollies) out|pulls? (?:back|out)", "zoom out"),
    (rf"({_SHOWS}\b[^,;:.!?]*?)(?<! in) (an?|two|three|some)", r"\1, \2"),  # what it shows has its own words before it
))  # fmt: skip
# Where a new clause begins: what is said of the camera in one is not said of the subject of the next.
CLAUSE = re.compile(r"[,;:!?()\n\u3001\u3002\uff0c]|(?<=\w\w)\.|"
                    r"\b(?:while|as|when|whilst|then|and (?=the camera|camera))\b")  # fmt: skip


def sorted_out(matches: list[Match]) -> list[Match]:
    """The matches of a clause, those about the camera as the camera's."""
    at = next((n for n, match in enumerate(matches) if match.kind in ("lens", "camera")), None)
    if at is None:
        return matches
    before, after = matches[:at], matches[at + 1 :]
    end = next((n for n, match in enumerate(after) if match.kind == "subject"), len(after))
    clause = [matches[at], *after[:end]]
    if not any(match.kind in ("subject", "action", "travel") for match in before):  # "a slow zoom in"
        before, clause = [], before + clause
    turned = any(match.kind in ("direction", "beside") for match in clause)
    return before + [of_camera(match, turned) for match in clause] + after[end:]


def of_camera(match: Match, turned: bool) -> Match:
    """What is said of the camera: one of its ways, or `more` than it has."""
    if match.kind == "unknown" and match.words in HOLDS:
        return Match("camera", "still", match.words)
    if match.kind == "travel" and turned or match.kind not in MOTION:
        return match._replace(kind="lens") if match.kind == "travel" else match
    way = WAYS.get(match.value)
    named = match.words if match.kind == "speed" else f"camera {match.words}"
    return Match("camera", way, match.words) if way else Match("more", "", named)
