"""What becomes of prompts: by the grammar, by an LLM on this machine that misbehaves, and on the command line."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from test_engine import SHOT, engine  # noqa: F401
from test_verbs import sora  # noqa: F401

from sora_cli import registry
from sora_cli.cli import expanding
from sora_cli.cli.describing import shot_in
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.screen import Screen
from sora_cli.errors import Failed, SoraError
from sora_cli.prompts import rewriting
from sora_cli.prompts.grammar import captions_of, expand, reseeded
from sora_cli.prompts.llm import KEY, Server, client
from sora_cli.prompts.notation import foreign
from sora_cli.shot import Anchor, Cue, Shot
from sora_cli.world import spelling
from sora_cli.world.captions import _KNOWN, _MEANING, parse
from sora_cli.world.vocabulary import SUBJECTS

ROOT = Path(__file__).parent.parent
with (ROOT / "tests" / "data" / "expansions.tsv").open(encoding="utf-8") as file:
    TABLE = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

# ---- the grammar ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE, ids=[row["prompt"] for row in TABLE])
def test_a_short_prompt_becomes_its_caption(row: dict[str, str]) -> None:
    found = expand(row["prompt"])
    read_as = ", ".join(f"{word} as {right}" for word, right in found.read_as.items())
    assert (found.caption, read_as, ", ".join(found.unknown), ", ".join(found.left_out)) == (
        row["caption"], row["read as"], row["unknown"], row["left out"])  # fmt: skip


def test_the_table_is_large_and_in_the_documentation() -> None:
    assert len(TABLE) >= 40 and {"synonym", "plural", "typo", "order", "unknown"} <= {row["kind"] for row in TABLE}
    script = [sys.executable, str(ROOT / "scripts" / "prompt_table.py")]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    assert told.count("\n") == len(TABLE) + 2 and told in page, "python scripts/prompt_table.py --write puts it right"


@pytest.mark.parametrize(
    ("prompt", "right", "named"),
    [
        ("a robot with a camera walks left", {"action": "moving left", "camera": "still"}, ["camera"]),
        ("a dog looks at the camera and spins", {"action": "spinning", "camera": "still"}, ["looks", "camera"]),
        ("a bear dances in front of the camera", {"action": "dancing", "camera": "still"}, ["camera"]),
        ("a boat with the camera panning left", {"subject": "sailboat", "camera": "pan left"}, []),
        ("pan from left to right over the ocean, a whale rises", {"action": "rising", "camera": "pan right"}, []),
        ("tilt up to reveal a crab", {"subject": "crab", "action": "bouncing"}, ["tilts", "reveal", "camera up"]),
        ("orbiting shot of a pumpkin jumping", {"action": "bouncing"}, ["camera orbiting"]),
        ("not a cat but a dog", {"subject": "dog", "second": None}, ["not cat"]),
        ("a fox and no rabbit", {"subject": "fox", "second": None}, ["no rabbit"]),
        ("a lion without trees", {"place": "desert"}, ["without trees"]),
        ("a dog that isn't running", {"subject": "dog", "action": "bouncing"}, ["isnt running"]),
        ("a cat that does not move", {"action": "standing still"}, []),
        ("an owl on the left and a fox on the right", {"side": "left side"}, ["right side"]),
        ("a cat \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 and a dog", {"subject": "cat", "second": "dog"},
         ["\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"]),
        ("2 < 3 cats > a dog", {"subject": "cat", "second": "dog"}, []),
    ],
)
def test_words_are_what_they_are_said_of(prompt: str, right: dict[str, str | None], named: list[str]) -> None:
    found = expand(prompt)
    assert {name: getattr(found.scene, name) for name in right} == right
    assert sorted([*found.unknown, *found.left_out]) == sorted(named)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<my-dog> surfing", ["<my-dog>"]), ("a <b>cat</b>", ["<b>", "</b>"]), ("I <3 cats", []),
        ("a cat\nNegative prompt: dog\nSteps: 20, Seed: 3", ["Negative prompt:", "Steps: 20"]),
        ("A CAT AND A DOG", []), ("a cat AND a dog", ["AND"]), ("A CAT (DOG:1.2) AND", ["(DOG:1.2)"]),
    ],
)  # fmt: skip
def test_the_notation_of_others_is_seen(text: str, pieces: list[str]) -> None:
    assert foreign(text) == pieces


# ---- what a seed chooses ----------------------------------------------------------------------------------


def chosen(prompt: str, seed: int) -> tuple[str, str, str]:
    scene = expand(prompt, seed).scene
    return scene.side, scene.height, scene.beat


@pytest.mark.parametrize("first", [0, 1, 7, 8, 10, 42, 2**31 - 1])
def test_seeds_in_a_row_choose_differently_and_alike_for_all_prompts(first: int) -> None:
    seeds = range(first, first + 12)
    assert len({chosen("a cat", seed) for seed in seeds}) == 12
    for one, other in pairwise(chosen("a cat", seed) for seed in seeds):
        assert one[0] != other[0] and one[2] != other[2]
    assert all(chosen("two dogs dancing on stage", seed) == chosen("a cat", seed) for seed in seeds)


def test_heights_are_balanced_and_nothing_but_the_three_depends_on_the_seed() -> None:
    scenes = [expand("a cat", seed).scene for seed in range(400)]
    assert 150 < sum(scene.height == "high" for scene in scenes) < 250
    assert len({replace(scene, side="middle", height="low", beat="beat one") for scene in scenes}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_what_is_said_is_not_chosen(seed: int) -> None:
    assert expand("a cat on the right", seed).scene.side == "right side"
    assert expand("an owl in the middle, high up", seed).scene.height == "high"
    assert expand("a cat, beat three", seed).scene.beat == "beat three"


def test_another_seed_chooses_anew_what_the_old_one_chose_and_nothing_else() -> None:
    shot = Shot("a cat on the left", cues=(Cue("1s", "it jumps"), Cue("2s", "")), seed=3)
    shot = replace(shot, captions=tuple(captions_of(shot, grammar=True)))
    fresh = replace(shot, captions=(), seed=8)
    assert shot.captions[2] == ""
    assert reseeded(shot, 8).captions == tuple(captions_of(fresh, grammar=True)) != shot.captions
    assert reseeded(reseeded(shot, 8), 3) == shot
    for kept in (PROSE, "a cat", "a large cat surfing normal, ocean, camera still"):     # an LLM's, typed, an older one
        assert reseeded(Shot("a cat", captions=(kept,)), 8) == Shot("a cat", seed=8, captions=(kept,))
    assert reseeded(Shot("a cat"), 8) == Shot("a cat", seed=8)


OTHER_BEINGS = """
    dragonfly bat goat wolf donkey snake lizard spider ant ladybug worm eagle crow hamster otter seal walrus hippo rhino
    badger llama cart house plant planet rose tree castle bridge canoe wizard princess astronaut pirate child beard pear
    fist dock whole monkfish starfish seahorse sharp shack stark sheet sweep track trick trunk muse came
    cameo state stare purpose propose lover tuck bacteria martial render muddle canter swam concern
""".split()


def test_real_words_are_not_taken_for_others() -> None:
    said = {word: parse(f"a {word}") for word in OTHER_BEINGS if word not in _KNOWN}
    wrong = [word for word, found in said.items() if found.subjects or found.read_as]
    assert wrong == [] and "cart" not in _KNOWN
    assert not spelling.WORDS & _KNOWN, "these are known by now"


def test_every_subject_survives_two_swapped_letters_and_a_double_one() -> None:
    for name in (name for name in SUBJECTS if len(name) > 4):
        for typed in (name[:2] + name[3] + name[2] + name[4:], name[:3] + name[2:]):
            assert typed in spelling.WORDS | _KNOWN or parse(f"a {typed}").subjects == (name,), typed


@pytest.mark.parametrize(("typed", "known", "slips"), [
    ("cat", "cat", 0.5), ("caaat", "cat", 0.5), ("cta", "cat", 0.5), ("act", "cats", 2), ("horses", "horse", 1),
    ("elefant", "elephant", 2), ("pengiun", "penguin", 0.5), ("house", "horse", 1), ("cat", "elephant", 9),
])  # fmt: skip
def test_slips_are_counted(typed: str, known: str, slips: float) -> None:
    assert spelling.slips(typed, known) == slips


def test_what_could_be_two_things_is_neither() -> None:
    assert spelling.correct_spelling("brear", {"bread": 1, "break": 1}) == "bread"
    assert spelling.correct_spelling("brear", {"bread": 1, "break": 2}) is None
    assert spelling.correct_spelling("pengiun", _MEANING) == "penguin"
    assert spelling.correct_spelling("act", _MEANING) is None


# ---- an LLM -----------------------------------------------------------------------------------------------

PROSE = ("A ginger cat with white paws rides a turquoise wave on a small wooden board, leaning into the curl while "
         "spray glitters around it in low golden light, seen from a camera that glides along beside it.")  # fmt: skip
LINE = "a small horse bouncing fast, snow, camera zoom in"


class Llm(ThreadingHTTPServer):
    """What it was asked, and what it is to answer: a text, a status, bytes of any kind, or nothing for a while."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[dict[str, Any]] = []
        self.answer: str | int | bytes = PROSE
        self.over = Event()
        self.writer = Server(f"http://127.0.0.1:{self.server_port}/v1", "tiny")
        self.url = f"{self.writer.url}#tiny"


class Answering(BaseHTTPRequestHandler):
    server: Llm

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        answer = self.server.answer
        if answer == "drip":
            return self.drip()
        if isinstance(answer, int):
            said = json.dumps({"error": {"message": "no such\nmodel"}}).encode()
        elif isinstance(answer, bytes):
            said = answer
        else:
            message = {"role": "assistant", "content": answer}
            said = json.dumps({"id": "", "model": "", "created": 0, "system_fingerprint": "", "usage": {}, "choices": [
                {"index": 0, "finish_reason": "stop", "message": message}]}).encode()  # fmt: skip
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def drip(self) -> None:
        """An answer that never comes, but shows that it is alive, so that no timeout of a read helps."""
        self.send_response(200)
        self.end_headers()
        while not self.server.over.wait(0.05):
            self.wfile.write(b" ")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Llm]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in (KEY, client.TIMEOUT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "PAUSE", 0.01)
    with Llm() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


def test_a_prompt_is_rewritten_once_and_then_remembered(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> None:
    shot = Shot("a cat surfing", frames=48)
    given = [expanding.described(Anchor("/home/me/start.png", "0.5s"), shot)]
    llm.answer = f"<think>hm</think>\n\"{PROSE}\""
    assert rewriting.rewrite_prompts(shot, llm.writer, given, world=False) == (PROSE,)
    asked = llm.asked[0]
    system, user = (message["content"] for message in asked["messages"])
    assert (asked["path"], asked["model"], asked["key"]) == ("/v1/chat/completions", "tiny", None)
    assert "detailed" in system and "a cat surfing" in user and "\"start.png\", seen at 0.5 s of 2.0 s" in user
    assert "/home/me" not in user
    assert rewriting.rewrite_prompts(shot, llm.writer, given, world=False) == (PROSE,) and len(llm.asked) == 1
    monkeypatch.setenv(KEY, "mine")
    for other, around in ((llm.writer, []), (Server(llm.writer.url, "other"), given)):
        rewriting.rewrite_prompts(shot, other, around, world=False)
    assert [question["key"] for question in llm.asked[1:]] == ["Bearer mine"] * 2


def test_an_answer_stays_in_the_world_and_what_is_said_stays(llm: Llm) -> None:
    llm.answer = LINE
    (found,) = rewriting.rewrite_prompts(Shot("ein Walross"), llm.writer, (), world=True)
    assert found == LINE and "octopus" in llm.asked[0]["messages"][0]["content"]
    (found,) = rewriting.rewrite_prompts(Shot("a big cat in the ocean"), llm.writer, (), world=True)
    assert found == "a large cat bouncing fast, ocean, camera zoom in"


def test_an_llm_is_asked_once_for_several_and_each_is_completed(llm: Llm) -> None:
    shots = [Shot("ein Walross", seed=seed) for seed in range(4)]
    for answer, side in ((LINE, None), (f"{LINE}, middle", "middle")):
        llm.answer = answer
        told = Expansion(llm.writer, trained=True).captioned(shots, Screen(), [answer])
        assert [shot.captions for shot in told] == [(expand(answer, shot.seed).caption,) for shot in shots]
        assert len({shot.captions for shot in told}) == 4
        assert side is None or all(f", {side}, " in shot.captions[0] for shot in told)
    assert len(llm.asked) == 2 and "right side" in llm.asked[0]["messages"][0]["content"]
    llm.answer = 500
    kittens = [replace(shot, prompt="a kitten") for shot in shots]
    told = Expansion(llm.writer, trained=True).captioned(kittens, Screen(quiet=True))
    assert [shot.captions for shot in told] == [(expand("a kitten", seed).caption,) for seed in range(4)]
    assert len(llm.asked) == 2 + client.TRIES
    llm.answer = PROSE
    hub = Expansion(llm.writer, trained=False)
    assert {shot.captions for shot in hub.captioned(shots, Screen())} == {(PROSE,)}


def test_every_prompt_of_a_shot_is_rewritten_but_the_empty_ones(llm: Llm) -> None:
    shot = Shot("", cues=(Cue("1s", "a cat"), Cue("2s", "a dog")))
    assert rewriting.rewrite_prompts(shot, llm.writer, (), world=False) == ("", PROSE, PROSE)
    assert "described as: a cat" in llm.asked[1]["messages"][1]["content"]


@pytest.mark.parametrize(("answer", "complaint"), [
    (404, r"answers 404 \(no such model\)"), (500, "answers 500"), (b"<html>", "OpenAI's protocol"),
    (b"[]", "OpenAI's protocol"), (b'{"choices": []}', "OpenAI's protocol"), ("", "nothing"),
    ("I'm sorry, I cannot help with surfing cats in any way at all.", "refusal"), ("wave " * 60, "over and over"),
    ("{{{ 12 }} %% ;; 000 11 22 33", "nonsense"), ("a cat", "nonsense"),
])  # fmt: skip
def test_a_bad_answer_is_told_in_one_line_and_not_kept(llm: Llm, answer: Any, complaint: str) -> None:
    llm.answer = answer
    with pytest.raises(Failed, match=complaint) as told:
        rewriting.rewrite_prompts(Shot("a cat surfing"), llm.writer, (), world=False)
    assert "\n" not in str(told.value) and str(told.value).startswith("127.0.0.1:")
    llm.answer = PROSE
    assert rewriting.rewrite_prompts(Shot("a cat surfing"), llm.writer, (), world=False) == (PROSE,)


def test_an_answer_without_a_subject_is_nonsense_in_the_world(llm: Llm) -> None:
    llm.answer = "Certainly, whatever pleases everybody."
    with pytest.raises(Failed, match="nonsense"):
        rewriting.rewrite_prompts(Shot("a walrus"), llm.writer, (), world=True)


def test_an_answer_that_drips_is_not_waited_for(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> None:
    llm.answer = "drip"
    with pytest.raises(Failed, match="does not answer within"):
        rewriting.rewrite_prompts(Shot("a cat"), replace(llm.writer, patience=0.3), (), world=False)


def test_nobody_there_and_a_damaged_cache(llm: Llm) -> None:
    with pytest.raises(Failed, match="cannot be reached"):
        rewriting.rewrite_prompts(Shot("a cat"), Server("http://127.0.0.1:9/v1"), (), world=False)
    rewriting.rewrite_prompts(Shot("a cat"), llm.writer, (), world=False)
    (kept,) = rewriting.folder().glob("*.txt")
    kept.write_bytes(b"\xff\x00")
    assert rewriting.rewrite_prompts(Shot("a cat"), llm.writer, (), world=False) == (PROSE,) and len(llm.asked) == 2


def test_few_answers_are_kept(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "MOST_KEPT", 2)
    for prompt in ("a cat", "a dog", "a cow"):
        rewriting.rewrite_prompts(Shot(prompt), llm.writer, (), world=False)
    assert len(list(rewriting.folder().iterdir())) == 2


# ---- the option -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("expand", "writer", "model", "complaint"), [
    ("some", None, "pocket", "unknown --expand"), ("grammar", None, "wan2.2-5b", "not trained on pocket's grammar"),
    ("auto", "tiny", "pocket", "must give its address"), ("ftp://a/v1", None, "pocket", "is not an address"),
    ("http://:80/v1", None, "pocket", "is not an address"), ("http://a:99999/v1", None, "pocket", "is not an address"),
    ("http://a b/v1", None, "pocket", "is not an address"), ("http://me:secret@a/v1", None, "pocket", KEY),
    ("http:///v1", None, "pocket", "is not an address"),
    ("http://a/v1#b", "c", "pocket", "one of them"),
])  # fmt: skip
def test_nonsense_is_refused(expand: str, writer: str | None, model: str, complaint: str) -> None:
    with pytest.raises(SoraError, match=complaint) as told:
        Expansion.asked(expand, writer, registry.entry(model))
    assert "secret" not in str(told.value)


def test_how_prompts_are_expanded() -> None:
    pocket, wan = map(registry.entry, ("pocket", "wan2.2-5b"))
    assert [Expansion.asked("auto", None, entry).mode for entry in (pocket, wan)] == ["grammar", "off"]
    assert Expansion.asked("http://a/v1#org/b:7", None, pocket).mode == Server("http://a/v1", "org/b:7")
    assert Expansion.asked("http://a/v1", "b", pocket).mode == Server("http://a/v1", "b")
    as_grammar = (expand("a kitten").caption,)
    for mode, entry, captions in (
        ("grammar", pocket, as_grammar), ("off", pocket, ("a kitten",)), ("off", wan, ()),
    ):  # fmt: skip
        (shot,) = Expansion.asked(mode, None, entry).captioned([Shot("a kitten", model=entry.name)], Screen())
        assert shot.captions == captions
    kept = Shot("a kitten", captions=("mine",))
    assert Expansion.asked("grammar", None, pocket).captioned([kept], Screen()) == [kept]


def test_captions_are_part_of_a_shot() -> None:
    shot = Shot("a cat", cues=(Cue("1s", "a dog"),), captions=("one", "two"))
    assert Shot.from_json(shot.to_json()) == shot
    for captions in (["one"], "one", [1, 2]):
        with pytest.raises(SoraError, match="caption"):
            Shot.from_json(json.dumps(shot.to_dict() | {"captions": captions}))


def test_the_engine_reads_captions(engine: Any) -> None:  # noqa: F811
    def notes(prompt: str, *captions: str) -> str:
        return "\n".join(engine.start(Shot(prompt, **SIZE, captions=captions)).notes)

    assert f'caption: "{expand("a kitten").caption}"' in notes("a kitten")
    assert 'read "pengiun" as "penguin"' in notes("a pengiun")
    assert "caption" not in notes("a kitten", "a kitten") and "does not know: walrus" in notes("a walrus", "a walrus")
    assert 'caption: "so [2J"' in notes("a cat", "so\x1b[2J")
    assert engine.start(Shot("a kitten", **SIZE, captions=("a dog",))).plan.captions == ("a dog",)


@pytest.mark.parametrize(("text", "pieces"), [
    ("(a cat:1.3) surfing [dog]", ["(a cat:1.3)", "[dog]"]), ("cat++ and dog--", ["cat++", "dog--"]),
    ("<lora:style:0.8> ((cat))", ["<lora:style:0.8>", "((cat))"]), ("{red|blue} cat BREAK", ["{red|blue}", "BREAK"]),
    ("cat::2 --ar 16:9", ["cat::2", "--ar 16:9"]), ("[cat:dog:0.5] __animal__", ["[cat:dog:0.5]", "__animal__"]),
    ("a well-known cat - at 10:30, 3:4, C++", ["C++"]), ("a cat: it surfs -- well, at <3 km/h and 5+5", []),
    ("a rock and roll cat, e.g. 3 > 2", []),
])  # fmt: skip
def test_the_notation_of_other_programs_is_found(text: str, pieces: list[str]) -> None:
    assert foreign(text) == pieces


def test_what_does_nothing_is_said(engine: Any) -> None:  # noqa: F811
    def notes(prompt: str = "a cat", **changed: Any) -> str:
        return "\n".join(engine.start(Shot(prompt, **SIZE | changed)).notes)

    assert "--negative does nothing at --guidance 1" in notes(negative="dog", guidance=1)
    assert "nothing" not in notes(negative="dog", guidance=2) + notes(guidance=1)
    assert "does not know: walrus, éclair" in notes(negative="a walrus, éclair", guidance=2)
    assert "have no effect; their words are read as usual: (cat:1.2)" in notes("a (cat:1.2)")
    assert "[dog]" in notes(negative="[dog]") and "left out: jumps" in notes("a cat surfs, then jumps")
    long = "a cat " * 20
    assert "reads the first" not in notes(long)  # the caption is short
    assert 'of 40 words of "a cat a cat' in notes(long, captions=(long,)) and "of 40 words" in notes(negative=long)


SIZE = {"width": SHOT.width, "height": SHOT.height, "frames": 6, "steps": 1, "model": "tiny"}


def test_a_video_says_what_became_of_its_prompt(
    sora: Callable[..., int], llm: Llm, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    words = ("generate", "ein Walross", "--frames", 6, "--res", "64x64", "--seed", 3)
    llm.answer = LINE
    assert sora(*words, "--expand", llm.url, "-o", "a.mp4") == 0
    line = f"{LINE}, middle, high, beat four"
    assert f'caption: "{line}"' in capsys.readouterr().err
    shot = json.loads(Path("a.json").read_text())["shot"]
    assert (shot["prompt"], shot["captions"]) == ("ein Walross", [line])
    assert sora("generate", "--from", "a.mp4", "-o", "again.mp4") == 0
    assert json.loads(Path("again.json").read_text())["shot"]["captions"] == [line]
    assert sora("generate", "--from", "a.mp4", "--seed", 4, "-o", "other.mp4") == 0
    assert json.loads(Path("other.json").read_text())["shot"]["captions"] == [expand(LINE, 4).caption]
    assert sora("generate", "a kitten", "--from", "a.mp4", "-o", "kitten.mp4") == 0
    assert json.loads(Path("kitten.json").read_text())["shot"]["captions"] == [expand("a kitten", 3).caption]
    assert len(llm.asked) == 1
    llm.answer = 502
    capsys.readouterr()
    assert sora("loop", "a kitten", "--seconds", 0.4, "--res", "64x64", "--expand", llm.url, "-o", "b.mp4") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "502" in line]
    assert len(lines) == 1 and lines[0].endswith("the grammar expands the prompt")
    assert json.loads(Path("b.json").read_text())["shot"]["captions"] == [expand("a kitten").caption]
    for verb, where in (("extend", "after which"), ("reverse", "with which it ends")):
        assert sora(verb, "a.mp4", "a dog", "--expand", llm.url, "-o", f"{verb}.mp4") == 0
        assert f'"a.mp4", {where}' in llm.asked[-1]["messages"][1]["content"]
    assert sora("generate", "a cat", "--expand", "off", "--frames", 1, "--res", "64x64", "-o", "c.png") == 0
    assert shot_in(Path("c.png")).captions == ("a cat",)


# ---- the benchmark ----------------------------------------------------------------------------------------


def test_the_benchmark_asks_as_people_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import expansion

    scenes = expansion.clips.held_out(24, 0)
    prompts = expansion.prompts(scenes, 0)
    assert prompts == expansion.prompts(scenes, 0) != expansion.prompts(scenes, 1)
    for number, (scene, prompt) in enumerate(zip(scenes, prompts, strict=True)):
        said = parse(prompt)
        assert number % 2 or (said.subjects[0], said.action, said.place) == (scene.subject, scene.action, scene.place)
        read = [shot.captions for _, shot in expansion.ways(Shot(prompt), scene, Expansion("grammar", trained=True))]
        assert read == [(prompt,), (expand(prompt).caption,), (expansion.dense(scene),)]
    right = sum(expand(prompt).scene.triples == scene.triples for scene, prompt in zip(scenes, prompts, strict=True))
    assert right >= 20
    rows = [{"subject": True, "action": True}, {"subject": True, "action": False}]
    assert [expansion.share(rows, what) for what in (["subject"], ["subject", "action"])] == [100, 50]


@pytest.mark.parametrize(("prompt", "how"), [
    ("a zyzzyva and a qwerty", []), ("(a cat:1.3) surfing", []), ("éléphant runs, jumps, sleeps", []),
    ("a cat " + "xyz " * 40, ["--expand", "off"]),
    ("a cat", ["--negative", "zebra", "--guidance", "0", "--fit", "contain"]),
])  # fmt: skip
def test_a_dry_run_says_what_a_run_says_of_its_prompt(prompt: str, how: list[str], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    from sora_cli import cli

    monkeypatch.chdir(tmp_path)
    quick = ["--frames", "1", "--res", "128x96", "--steps", "1", "--device", "cpu"]
    words = ["generate", prompt, *how, *quick, "-o", "a.png"]
    said = []
    for more in ([], ["--dry-run"]):
        assert cli.run([*words, *more]) == 0 if not more else cli.run([*words[:-1], "b.png", *more]) == 0
        said.append([line for line in capsys.readouterr().err.splitlines() if not re.search(r" frames? in ", line)])
    assert len(said[0]) >= 3 and said[0] == said[1]
