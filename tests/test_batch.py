"""A list of shots: all checked before the first is made, each made once, whatever happens on the way."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
from PIL import Image
from test_resume import KILLED

from sora_cli import cli, media
from sora_cli.cli import batching
from sora_cli.cli.batch import VERBS
from sora_cli.cli.batch_screen import Outcome
from sora_cli.cli.lines import grid, lines
from sora_cli.generation import engine

DEFAULTS = (*tiny.QUICK, "--res", "64x64")
KNOWN = ("prompt", "seed", "verb", "output", "anchor", "prompt_at", "seconds")


@pytest.fixture(autouse=True)
def tiny_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and the tiny engine."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)


def listed(*told: dict[str, Any] | str, name: str = "jobs.jsonl") -> str:
    Path(name).write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in told))
    return name


def shots(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": "a cat", "frames": 9, "seed": n, "output": name, **more} for n, name in enumerate(names)]


def run(*words: str) -> int:
    return cli.run(["batch", *words, *DEFAULTS])


# ---- what is written --------------------------------------------------------------------------------------


def options(name: str, text: str) -> list[dict[str, Any]]:
    found = lines(name, text, KNOWN)
    assert not any(line.wrong for line in found), found
    return [line.options for line in found]


def test_lists_are_objects_tables_or_prompts() -> None:
    cat = {"prompt": "a cat, surfing", "seed": "3"}
    assert options("a.csv", 'prompt,seed\n"a cat, surfing",3\nb,\n') == [cat, {"prompt": "b"}]
    assert options("a.csv", "prompt;seed\r\na cat, surfing;3\r\n") == [cat]
    assert options("-", "prompt\tseed\na cat, surfing\t3\n") == [cat]
    assert options("a.csv", "anchor,anchor\na.png,b.png@-1\n") == [{"anchor": ["a.png", "b.png@-1"]}]
    assert options("a.jsonl", '{"prompt": "a"}\n\n"b"\r\n') == [{"prompt": "a"}, {"prompt": "b"}]
    assert options("a.txt", "a cat, surfing\n\n  b;c  \n") == [{"prompt": "a cat, surfing"}, {"prompt": "b;c"}]
    assert options("-", ' {"seed": 1}') == [{"seed": 1}]


def test_numbers_of_lines_are_those_of_the_file() -> None:
    assert [line.number for line in lines("a.csv", 'prompt,seed\n"a\nb",1\nc,2\n', KNOWN)] == [2, 4]
    assert [line.number for line in lines("a.jsonl", '\n{}\n\n\n{}\n', KNOWN)] == [2, 5]
    wrong = lines("a.jsonl", '{"a": 1, "a": 2}\n[1]\n{"a":\n', KNOWN)
    assert [line.number for line in wrong if line.wrong] == [1, 2, 3] and "twice" in wrong[0].wrong


@pytest.mark.parametrize("raw", ["ein Kätzchen\n".encode(), "\ufeffein Kätzchen\r\n".encode(),
                                 "ein Kätzchen\n".encode("utf-16")])  # fmt: skip
def test_a_list_is_read_as_it_is_encoded(raw: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("jobs.txt").write_bytes(raw)
    assert run("jobs.txt", "--frames", "9", "-o", "{prompt}.y4m") == 0
    assert tiny.everything()[0] == "ein-kätzchen.json"
    Path("jobs.txt").write_bytes(b"a\n\xff\n")
    assert run("jobs.txt") == 2 and "jobs.txt:2: not valid UTF-8" in capsys.readouterr().err


def test_grids_are_made_only_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    line = lines("a.jsonl", '{"prompt": "a {cat|dog}", "seed": [1, "{4..2}"], "anchor": ["a.png"]}', KNOWN)[0]
    made = [(one.options["prompt"], one.options["seed"]) for one in grid(line, ["anchor"])]
    assert made == [(f"a {who}", seed) for who in ("cat", "dog") for seed in (1, "4", "3", "2")]
    assert all(one.options["anchor"] == ["a.png"] for one in grid(line, ["anchor"]))
    stepped = lines("a.jsonl", '{"prompt": "{0..90..30}{x}"}', KNOWN)[0]
    assert [one.options["prompt"] for one in grid(stepped, ())] == ["0{x}", "30{x}", "60{x}", "90{x}"]
    assert "combinations" in grid(lines("a.jsonl", '{"prompt": "{1..999}{1..999}"}', KNOWN)[0], ())[0].wrong
    assert run(listed({"prompt": "a", "seed": [1, 2]})) == 2
    assert "--expand-grid" in capsys.readouterr().err


# ---- what is refused --------------------------------------------------------------------------------------


def test_every_wrong_line_is_named_and_nothing_is_begun(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder.mp4").mkdir()
    Path("late.mp4").write_bytes(b"x")
    wrong = {
        '{"prompt": "a", "sed": 1, "output": "1.mp4"}': "no option 'sed'; did you mean seed?",
        '{"prompt": "a", "frames": 9.5, "output": "2.mp4"}': "--frames",
        '{"verb": "extend", "input": "nowhere.mp4"}': "there is no file nowhere.mp4",
        '{"prompt": "a", "output": "folder.mp4"}': "is a folder",
        '{"prompt": "a", "output": "nowhere/6.mp4"}': "there is no folder nowhere",
        '{"prompt": "a", "output": "good.mp4"}': "also written by line 1",
        '{"prompt": "a", "output": "./good.mov"}': "good.json beside good.mov is also written by line 1",
        '{"verb": "extend", "input": "./good.mp4"}': "which line 1 makes",
        '{"verb": "swim"}': "unknown verb 'swim'",
        '{"verb": "extend"}': "Missing argument",
        '{"prompt": "", "output": "12.mp4"}': "the prompt is empty",
        '{"prompt": "a", "output": "-"}': "cannot write to standard output",
        '{"verb": "reverse", "input": "-", "output": "14.mp4"}': "cannot read standard input",
        '{"prompt": "a", "quiet": true}': "for all jobs",
        '{"prompt": "a", "output": "late.mp4"}': "late.mp4 already exists",
        '{"prompt": "a", "output": "{what}.mp4"}': "unknown {what}",
        '{"prompt": "a", "metadata": "perhaps"}': "on or off",
        '{"prompt": ["a"], "output": "19.mp4"}': "not a list",
    }
    name = listed({"prompt": "a", "output": "good.mp4"}, *wrong)
    assert run(name) == 2
    err = capsys.readouterr().err
    for number, (line, why) in enumerate(wrong.items(), 2):
        said = [told for told in err.splitlines() if told.startswith(f"jobs.jsonl:{number}:")]
        assert len(said) == 1 and why in said[0], (line, said)
    assert f"{len(wrong)} wrong lines; nothing was started" in err and "jobs.jsonl:1:" not in err
    assert tiny.everything() == ["folder.mp4", "jobs.jsonl", "late.mp4"]


@pytest.mark.parametrize("words, why", [
    (["nowhere.jsonl"], "there is no file nowhere.jsonl"), (["."], "is a folder"), (["empty.txt"], "is empty"),
    (["a.txt", "--shard", "0/3"], "I from 1 to N"), (["a.txt", "--shard", "4/3"], "I from 1 to N"),
    (["a.txt", "--after", "3"], "--after applies to no job"), (["a.txt", "--verb", "swim"], "unknown --verb"),
    (["a.txt", "--sheet", "a.gif"], "must end in .png"), (["a.txt", "--sheet", "no/a.png"], "there is no folder no"),
])  # fmt: skip
def test_what_is_wrong_with_the_whole(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.txt").write_text("\n\n")
    Path("a.txt").write_text("a cat\n")
    assert run(*words) == 2
    assert why in capsys.readouterr().err and tiny.everything() == ["a.txt", "empty.txt"]


def test_every_option_of_every_verb_is_one_of_the_batch() -> None:
    import typer

    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    own = {word for parameter in commands["batch"].params for word in parameter.opts}
    for verb in VERBS:
        missing = {word for one in commands[verb].params if one.param_type_name == "option" for word in one.opts} - own
        assert missing <= {"--preview"}, (verb, missing)


# ---- what is made -----------------------------------------------------------------------------------------


def test_lines_are_verbs_and_defaults_hold_where_they_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clip = tiny.write("clip.y4m", tiny.y4m_format(), tiny.noise(tiny.y4m_format(), 9))
    name = listed(
        {"prompt": "a dog", "seconds": 0.5}, {"prompt": "a cat", "count": 2, "output": "{prompt}-{seed}-{line}.mp4"},
        {"verb": "loop", "prompt": "a boat", "output": "loop-{prompt}-{line}.gif"},
        {"verb": "extend", "input": clip, "after": 0.25, "output": "{input}-on.y4m", "no-metadata": True},
        {"verb": "encode", "video": clip, "output": "clip.safetensors"},
        {"verb": "reverse", "anchor": clip, "seconds": 0.25, "output": "rev.mp4"},
    )  # fmt: skip
    assert run(name, "--frames", "5", "--seed", "7", "-o", "{prompt}.mp4") == 0
    made = capsys.readouterr().out.split()
    assert made == ["a-dog.mp4", "a-cat-7-2.mp4", "a-cat-8-2.mp4", "loop-a-boat-3.gif", "clip-on.y4m", "rev.mp4",
                    "clip.safetensors"]  # fmt: skip
    frames = {one: media.probe(one).frames for one in made if one.endswith("mp4")}
    assert frames == {"a-dog.mp4": 12, "a-cat-7-2.mp4": 5, "a-cat-8-2.mp4": 5, "rev.mp4": 15}
    assert len(tiny.read("clip-on.y4m")[1]) == 9 + 6
    assert run(name, "--frames", "5", "--seed", "7", "-o", "{prompt}.mp4") == 0
    assert "0 made, 7 skipped, 0 failed" in capsys.readouterr().err


def test_a_seed_by_chance_is_the_same_whenever_the_list_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"prompt": "a cat", "frames": 1, "seed": "random", "output": "{seed}.png"}
    assert run(listed(line, line, line)) == 0
    first = capsys.readouterr().out.split()
    assert len(set(first)) == 3
    assert run(listed({**line, "prompt": "a dog"}, line, line, line)) == 0
    assert capsys.readouterr().out.split()[:3] == first  # those that are skipped come first


def seeds_of(*names: str) -> list[int]:
    return [json.loads(Path(name).with_suffix(".json").read_text())["shot"]["seed"] for name in names]


@pytest.mark.parametrize("told, words", [
    ({"seed": -1}, []), ({"seed": "-1"}, []), ({"seed": "random"}, []), ({}, ["--seed", "random"]),
    ({}, ["--seed", "-1"]),
])  # fmt: skip
def test_seeds_by_chance_are_recorded_and_counted_from(
    told: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"prompt": "a cat", "frames": 5, "n": 2, "output": "{seed}-{line}.mp4", **told}
    assert run(listed(line, line), *words) == 0
    made = capsys.readouterr().out.split()
    seeds = seeds_of(*made)
    assert [name.split("-")[0] for name in made] == [str(seed) for seed in seeds] and len(set(seeds)) == 4
    assert seeds[1] == seeds[0] + 1 and seeds[3] == seeds[2] + 1
    assert run(listed(line, line), *words) == 0 and "0 made, 4 skipped" in capsys.readouterr().err


def test_a_grid_may_have_several_seeds_by_chance(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = ["random", "random", "{7..8}"]
    line = {"prompt": "a {cat|dog}", "frames": 1, "seed": seeds, "output": "{prompt}-{seed}.png"}
    assert run(listed(line), "--expand-grid") == 0
    made = capsys.readouterr().out.split()
    assert len(set(made)) == 8 and {"a-cat-7.png", "a-cat-8.png", "a-dog-7.png", "a-dog-8.png"} <= set(made)


@pytest.mark.parametrize("seed", ["random", "-1"])
def test_generate_says_and_records_the_seeds_that_it_draws(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a cat", *DEFAULTS, "--frames", "5", "-o", "{n}.mp4", "-n", "3", "--seed", seed]
    assert cli.run(words) == 0
    seeds = seeds_of("1.mp4", "2.mp4", "3.mp4")
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2] and f"seed {seeds[0]}\n" in capsys.readouterr().err
    assert cli.run(["generate", "a cat", *DEFAULTS, "--frames", "5", "-o", "again.mp4", "--seed", str(seeds[1])]) == 0
    assert Path("again.mp4").read_bytes() == Path("2.mp4").read_bytes()


def test_what_is_done_is_known_by_its_shot_and_not_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(listed(*shots("a.mp4", "b.png", frames=1))) == 0
    before = {name: Path(name).stat().st_mtime_ns for name in ("a.mp4", "b.png")}
    assert run(listed(*shots("a.mp4", "b.png", "c.mp4", frames=1))) == 0
    assert "1 made, 2 skipped" in capsys.readouterr().err
    assert before == {name: Path(name).stat().st_mtime_ns for name in before}
    other = listed(*shots("a.mp4", "b.png", frames=1, prompt="a dog"))
    assert run(other) == 2
    err = capsys.readouterr().err
    assert 'a.mp4 already exists: its shot.prompt was "a cat" and is now "a dog"' in err
    assert ":2: b.png already exists" in err
    assert run(other, "--force") == 0
    assert "2 made, 0 skipped" in capsys.readouterr().err
    assert json.loads(Path("a.json").read_text())["shot"]["prompt"] == "a dog"


def test_an_input_that_has_changed_makes_another_video(capsys: pytest.CaptureFixture[str]) -> None:
    format = tiny.y4m_format()
    clip = tiny.write("clip.y4m", format, tiny.noise(format, 5))
    name = listed({"verb": "extend", "input": clip, "after": 0.25, "output": "a.mp4"})
    assert run(name) == 0 and run(name) == 0
    tiny.write("clip.y4m", format, tiny.noise(format, 5, seed=1))
    assert run(name) == 2 and "a.mp4 already exists, made with other files;" in capsys.readouterr().err


def test_generate_goes_on_with_several(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a cat", *DEFAULTS, "--frames", "5", "-o", "{n}.mp4"]
    assert cli.run([*words, "-n", "2"]) == 0
    before = Path("1.mp4").stat().st_mtime_ns
    assert cli.run([*words, "-n", "3", "--resume"]) == 0
    assert Path("1.mp4").stat().st_mtime_ns == before and Path("3.mp4").exists()
    assert capsys.readouterr().err.count("is already done") == 2
    assert cli.run([*words, "-n", "3", "--resume", "--seed", "1"]) == 2
    assert "its shot.seed was 0 and is now 1" in capsys.readouterr().err


def test_networks_are_loaded_once_for_all_that_want_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Counted(engine.Engine):
        def __init__(self, model: str, device: str, dtype: str, *more: Any) -> None:
            loaded.append(dtype)
            super().__init__(model, device, dtype, *more)

    monkeypatch.setattr(engine, "Engine", Counted)
    names = [f"{n}.mp4" for n in range(4)]
    told = [{**shot, "dtype": ("float32", "bfloat16")[n % 2], "res": ("64x64", "128x64")[n // 2]}
            for n, shot in enumerate(shots(*names))]  # fmt: skip
    assert run(listed(*told)) == 0
    assert loaded == ["float32", "bfloat16"]
    assert [media.probe(name).width for name in names] == [64, 64, 128, 128]


def test_one_that_fails_stops_nobody_and_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.mp4").write_bytes(b"no video at all")
    name = listed(*shots("a.mp4"), {"verb": "extend", "input": "broken.mp4", "after": 0.25, "-o": "on.mp4"},
                  *shots("b.mp4"))  # fmt: skip
    assert run(name, "--json") == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert Counter(one["event"] for one in told) == {"begin": 4, "made": 2, "retry": 1, "failed": 1, "end": 1}
    assert told[-1] | {"seconds": 0} == {"event": "end", "made": 2, "skipped": 0, "failed": 1, "seconds": 0}
    (failed,) = map(json.loads, Path("jobs.failed.jsonl").read_text().splitlines())
    assert failed["line"] == 2 and failed["output"] == "on.mp4" and "broken.mp4" in failed["error"]

    format = tiny.y4m_format()
    os.replace(tiny.write("whole.mp4", format, tiny.noise(format, 5)), "broken.mp4")
    assert run("jobs.failed.jsonl") == 0 and media.probe("on.mp4").frames == 11
    assert run(name) == 0 and not Path("jobs.failed.jsonl").exists()


def test_a_sheet_shows_everything_and_a_dry_run_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = listed(*shots("a.mp4", "b.gif", "c.png", frames=1), *shots("d.mp4"))
    monkeypatch.setattr("sora_cli.placement.estimate.product_rate", lambda *words: 1e9)
    assert run(name, "--dry-run", "--json") == 0
    bill = json.loads(capsys.readouterr().out)
    assert tiny.everything() == ["jobs.jsonl"] and (bill["jobs"], bill["made"]) == (4, 0)
    alone = shots("d.mp4")
    assert run(listed(*alone, name="one.jsonl"), "--dry-run", "--json") == 0
    one = json.loads(capsys.readouterr().out)
    assert one["parts"]["start"] == bill["parts"]["start"] and one["disk"] < bill["disk"] and bill["memory"] > 0

    assert run(name, "--sheet", "all.png") == 0
    with Image.open("all.png") as page:
        width, height = page.size
        corners = [page.getpixel((10 + 330 * x, 10 + y * (320 + 32))) for x in (0, 1) for y in (0, 1)]
    assert (width, height) == (10 + 2 * 330, 10 + 2 * (320 + 32)) and (255, 255, 255) not in corners


# ---- parts ------------------------------------------------------------------------------------------------


def parts_of(name: str, parts: int, capsys: pytest.CaptureFixture[str]) -> list[set[str]]:
    found = []
    for part in range(1, parts + 1):
        assert run(name, "--shard", f"{part}/{parts}", "--json") == 0
        told = map(json.loads, capsys.readouterr().out.splitlines())
        found.append({one["output"] for one in told if one["event"] in ("made", "skipped")})
    return found


def test_parts_make_everything_once_also_when_the_list_grows(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{n}.png" for n in range(12)]
    grown = [parts_of(listed(*shots(*names[:count], frames=1)), 3, capsys) for count in (6, 12)]
    for found, wanted in zip(grown, (names[:6], names), strict=True):
        assert set().union(*found) == set(wanted) and sum(map(len, found)) == len(wanted)
    assert all(before <= after for before, after in zip(*grown, strict=True))
    assert sum(bool(part) for part in grown[1]) == 3


def test_the_parts_of_many_are_about_as_large() -> None:
    class Named(batching.Item):
        name = ""  # type: ignore[assignment]

    def part(name: str) -> int:
        item = Named.__new__(Named)
        item.name = name  # type: ignore[misc]
        return item.shard(4)

    sizes = Counter(part(f"{n}.mp4") for n in range(4000))
    assert sorted(sizes) == [0, 1, 2, 3] and all(900 < size < 1100 for size in sizes.values())


# ---- whatever happens -------------------------------------------------------------------------------------


def killed(seed: int, *words: str) -> tuple[list[int], list[dict[str, Any]]]:
    """Exit codes and events of a batch that is killed at random moments, and repeated until it ends by itself."""
    done = forked.run(KILLED, str(seed), "batch", *words, *DEFAULTS)
    assert done.returncode == 0, done.stderr
    *events, codes = done.stdout.splitlines()
    return [int(code) for code in codes.split()], [json.loads(event) for event in events]


def test_killed_and_repeated_it_makes_every_video_once() -> None:
    format = tiny.y4m_format()
    clip = tiny.write("clip.y4m", format, tiny.noise(format, 9))
    told = [*shots("1.y4m", "2.mp4", "3.y4m", frames=21), *shots("4.png", frames=1),
            {"verb": "extend", "input": clip, "after": 0.5, "before": 0.25, "output": "5.y4m"}]  # fmt: skip
    *died, code = (told_by := killed(3, listed(*told), "--json"))[0]
    assert code == 0 and len(died) >= 3
    made = Counter(event["output"] for event in told_by[1] if event["event"] == "made")
    assert max(made.values()) == 1
    names = [line["output"] for line in told]
    assert not [name for name in tiny.everything() if ".part" in name or ".resume" in name]

    again = [{**line, "output": f"undisturbed-{line['output']}"} for line in told]
    assert run(listed(*again, name="again.jsonl")) == 0
    for name in names:
        assert Path(name).read_bytes() == Path(f"undisturbed-{name}").read_bytes(), name
    assert media.probe("2.mp4").frames == 21


def test_a_file_that_came_after_a_batch_was_killed_stays(capsys: pytest.CaptureFixture[str]) -> None:
    name = listed(*shots("a.png", frames=1))
    assert run(name) == 0
    begun = json.loads(Path("jobs.done.jsonl").read_text().splitlines()[0])
    assert not begun["made"]
    Path("jobs.done.jsonl").write_text(json.dumps(begun) + "\n")
    Path("a.png").write_text("mine")
    assert run(name) == 2 and "a.png already exists" in capsys.readouterr().err and Path("a.png").read_text() == "mine"
    Path("a.png.resume").mkdir()  # it was killed at work
    assert run(name) == 0 and Path("a.png").read_bytes()[1:4] == b"PNG" and not Path("a.png.resume").exists()


@pytest.mark.parametrize("output", ["a.png", "a.mp4"])
def test_what_another_process_has_made_meanwhile_is_done(
    output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = listed(*shots(output, frames=1))
    assert run(name) == 0
    made = {Path(path): Path(path).read_bytes() for path in tiny.everything() if path != name}
    for path in made:
        path.unlink()
    left = Path(f"{output}.resume", "identity.json")

    def busy(*given: object) -> Outcome:
        left.parent.mkdir()
        left.touch()  # it is killed while it removes this
        for path, content in made.items():
            path.write_bytes(content)
        return Outcome(f"{output} is in use by process 5")

    monkeypatch.setattr(batching, "attempt", busy)
    assert run(name) == 0 and "0 made, 1 skipped, 0 failed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in made} == made and not left.parent.exists()
