"""What is seen of a video while it is made: pictures in the terminal, and nothing where they cannot be shown; a moving
one beside the output; and drafts by tiny decoders."""

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import wan_folders
from PIL import Image
from rich.console import Console
from torch import Tensor

from sora_cli import cli, media, registry
from sora_cli.cli import previews
from sora_cli.cli.preview import Row
from sora_cli.cli.previews import Previews
from sora_cli.cli.screen import Screen
from sora_cli.errors import Failed
from sora_cli.generation.engine import Engine, Generation
from sora_cli.pipelines.wan import Wan
from sora_cli.sampling.solvers import euler, euler_sigmas, unipc, unipc_sigmas
from sora_cli.shot import Shot

NOISE = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def terminal(width: int = 40, height: int = 24, **options: Any) -> Console:
    wanted: dict[str, Any] = {"file": io.StringIO(), "width": width, "height": height, "_environ": {}}
    wanted |= {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False}
    return Console(**wanted | options)


def shown(console: Console, pictures: list[np.ndarray]) -> str:
    console.print(Row(pictures), end="")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text).splitlines()


def pixels(text: str) -> np.ndarray:
    """What a terminal with true colours shows: [2 lines, columns, 3]."""
    rows = []
    for line in text.splitlines():
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line)
        numbers = np.array(cells, int).reshape(-1, 2, 3)
        rows += [numbers[:, 0], numbers[:, 1]]
    return np.array(rows)


def test_a_character_is_two_pixels() -> None:
    assert np.array_equal(pixels(shown(terminal(width=4, height=6), [NOISE])), NOISE)


def test_pictures_stand_side_by_side() -> None:
    text = shown(terminal(width=9, height=6), [NOISE, 255 - NOISE])
    assert plain(text) == ["▀▀▀▀ ▀▀▀▀"] * 3
    assert np.array_equal(pixels(text), np.concatenate([NOISE, 255 - NOISE], 1))


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (64, 64), (1, 300)])
@pytest.mark.parametrize("room", [(80, 24), (40, 10), (20, 60), (5, 3)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_at_most_the_width_and_half_the_height(size: tuple[int, int], room: tuple[int, int], count: int) -> None:
    lines = plain(shown(terminal(*room), [np.zeros((*size, 3), np.uint8)] * count))
    assert 1 <= len(lines) <= room[1] // 2
    assert 1 <= max(map(len, lines)) <= room[0] and len(set(lines)) == 1


def test_the_aspect_is_kept() -> None:
    lines = plain(shown(terminal(80, 48), [np.zeros((180, 320, 3), np.uint8)]))
    assert len(lines[0]) / (2 * len(lines)) == pytest.approx(16 / 9, rel=0.1)


def test_many_pictures_in_a_narrow_terminal_are_fewer() -> None:
    assert plain(shown(terminal(width=5), [NOISE] * 8))[0] == "▀ ▀ ▀"


@pytest.mark.parametrize(
    "options",
    [
        {"color_system": None},
        {"color_system": "standard"},
        {"_environ": {"NO_COLOR": "1"}},
        {"force_terminal": False},
        {"height": 1},
    ],
)
def test_nothing_where_it_cannot_be_shown(options: dict[str, Any]) -> None:
    assert shown(terminal(**options), [NOISE]) == ""
    assert shown(terminal(), []) == ""


def test_nothing_without_half_blocks() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = terminal(file=ascii_only)
    console.print(Row([NOISE]), end="")
    ascii_only.flush()
    assert ascii_only.buffer.getvalue() == b""  # type: ignore[attr-defined]


def screen(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Screen, io.StringIO]:
    """A Screen on a stand-in for stderr that is a terminal."""
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "40", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Screen(**options), stream


def test_the_screen_shows_pictures_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, stream = screen(monkeypatch, preview=True)
    with seen:
        seen.show("decode", 1, 2)
        seen.picture([NOISE])
        seen.progress.refresh()
        drawn = stream.getvalue()
        seen.clear()
        assert seen.progress.row is None
    assert "▀" in drawn and drawn.index("▀") < drawn.rindex("decode")


def test_what_is_read_is_told_in_bytes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, stream = screen(monkeypatch)
    seen.console.width = 80
    with seen:
        seen.read("transformer", 1_500_000_000, 11_400_000_000)
        seen.read("layers", 3, 30)
        seen.progress.refresh()
        drawn = stream.getvalue()
        seen.read("transformer", 11_400_000_000, 11_400_000_000)
        seen.read("layers", 30, 30)
        assert not seen.progress.tasks
    assert "1.5/11.4 GB" in drawn and " 3/30 " in drawn


@pytest.mark.parametrize("options", [{}, {"preview": True, "quiet": True}])
def test_no_pictures_unless_asked(monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]) -> None:
    seen, stream = screen(monkeypatch, **options)
    with seen:
        seen.picture([NOISE])
        seen.progress.refresh()
    assert "▀" not in stream.getvalue()


def test_no_pictures_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    with Screen(preview=True) as seen:
        seen.picture([NOISE])
        seen.progress.refresh()
        seen.note("done")
    assert capfd.readouterr().err == "done\n"


# ---- the guess ---------------------------------------------------------------------------------------------

Sora = Callable[..., int]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sora:
    """Run one command line in an empty folder with the tiny engine; returns the exit code."""
    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return lambda verb, *words: cli.run([verb, *map(str, tiny.QUICK), *map(str, words)])


def clip(frames: int = 33, **more: Any) -> Shot:
    return Shot("a cat", width=64, height=64, frames=frames, steps=3, guidance=1.0, **more)


def by_euler(velocity: Any, x: Tensor) -> Any:
    return euler(velocity, x, euler_sigmas(4, 5.0))


def by_unipc(velocity: Any, x: Tensor) -> Any:
    return unipc(velocity, x, unipc_sigmas(4, 5.0))


@pytest.mark.parametrize("solve", [by_euler, by_unipc])
def test_on_a_straight_path_the_first_guess_is_right(sora: Sora, solve: Callable[..., Any]) -> None:
    from sora_cli.generation.preview import Guess

    data, noise = torch.randn(2, 6, 5, 4, 4).unbind()
    run = Engine(registry.entry("pocket"), "cpu").start(clip())
    list(run.denoise())
    window = run.inputs(run.plan.windows[0], torch.zeros(6, 9, 4, 4), torch.zeros(2, 9))
    inputs = replace(window, x=data, cond_mask=torch.zeros(2, 5))
    guess = Guess(lambda x, t: noise - data, inputs)
    assert guess.clean is None
    for _ in solve(guess, noise):
        torch.testing.assert_close(guess.clean, data, rtol=0, atol=1e-5)
    inputs.cond_mask[:, 1] = 1
    guess.found = torch.zeros_like(data)
    assert torch.equal(guess.clean[:, 1], data[:, 1]) and not guess.clean[:, 2].any()


def test_looking_changes_nothing_and_pictures_come_to_be(sora: Sora) -> None:
    """Window by window there are more of them, all by the end; what is final is decoded once."""
    engine = Engine(registry.entry("pocket"), "cpu")
    alone, seen = engine.start(clip()), engine.start(clip())
    list(alone.denoise())
    counts = []
    for progress in seen.denoise():
        if progress.done:
            counts.append(len(seen.preview_frames(9)))
    assert alone.latents is not None and torch.equal(alone.latents, seen.latents)
    assert counts[0] > 0 and counts == sorted(counts) and counts[-1] == 9 == seen.plan.latents
    assert seen.preview.final == set(range(9)) and seen.timings["preview"] > 0
    made, pictures = list(seen.frames()), seen.preview_frames(9)
    key = Image.fromarray(made[8]).resize(pictures[2].shape[1::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(key).astype(int) - pictures[2]).mean() < 8
    assert len(seen.preview_frames(3)) == 3


def test_a_preview_that_fails_ends_and_the_video_goes_on(sora: Sora, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Engine(registry.entry("pocket"), "cpu").start(clip())
    for error in (MemoryError(), Failed("the decoded frames are not finite"), RuntimeError("CUDA out of memory.")):
        run.preview.over = False
        monkeypatch.setattr(type(run.pipeline), "sketches", lambda *words, error=error: (_ for _ in ()).throw(error))
        for _ in run.denoise():
            assert run.preview_frames() == []
        assert run.preview.over and run.latents is not None


# ---- the file ----------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, tuple[int, int]]]:
    """The preview files that are written: name, frames and size of each, as Pillow reads them back. No step is too
    fast for one."""
    found: list[tuple[str, int, tuple[int, int]]] = []
    write = media.write_moving

    def seen(path: Path, *words: Any) -> None:
        write(path, *words)
        with Image.open(path) as image:
            found.append((Path(path).name, getattr(image, "n_frames", 1), image.size))

    monkeypatch.setattr(media, "write_moving", seen)
    monkeypatch.setattr(previews, "SHARE", 1.0)
    return found


VERBS = {
    "out.mp4": ("generate", "a cat", "--seconds", 1),
    "out.y4m": ("loop", "a cat", "--seconds", 1),
    "out.gif": ("extend", "in.y4m", "--after", 0.5, "--before", 0.5),
    "out%03d.png": ("reverse", "in.y4m", "--seconds", 0.5),
    "out.webm": ("loop", "in.y4m", "--seconds", 0.5),
}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_shows_every_step_and_leaves_no_preview(sora: Sora, looks: list[Any], name: str) -> None:
    format = tiny.y4m_format()
    tiny.write("in.y4m", format, tiny.noise(format, 9))
    size = ("--res", "64x64") if VERBS[name][1] == "a cat" else ()
    assert sora(*VERBS[name], *size, "--steps", 3, "--preview", "-o", name) == 0
    names, _, sizes = map(set, zip(*looks, strict=True))
    assert names == {"out.preview.webp"} and sizes <= {(64, 64), (128, 128)}
    assert len(looks) >= 3 and max(frames for _, frames, _ in looks) > 1
    assert not list(Path().glob("*preview*"))


def test_a_video_that_stops_keeps_its_preview(sora: Sora, looks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Generation) -> Any:
        raise Failed("no more")
        yield

    words = ("generate", "a cat", "--res", "64x64", "--seconds", 1, "--preview", "-o", "a.mp4")
    with monkeypatch.context() as broken:
        broken.setattr(Generation, "frames", fail)
        assert sora(*words) == 1 and Path("a.preview.webp").exists() and not Path("a.mp4").exists()
    assert sora(*words, "--resume") == 0 and not Path("a.preview.webp").exists()


def test_no_other_file_is_lost_and_a_pipe_has_none(
    sora: Sora, looks: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("generate", "a cat", "--res", "64x64", "--seconds", 0.5, "--preview")
    Path("a.preview.webp").write_bytes(b"mine")
    assert sora(*words, "-o", "a.mp4") == 2 and "a.preview.webp already exists" in capfd.readouterr().err
    assert Path("a.preview.webp").read_bytes() == b"mine"
    assert sora(*words, "-o", "-") == 0 and not looks


def test_every_job_of_a_batch_has_its_own(
    sora: Sora, looks: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside its output, also where its name is given by the line or the verb has a video; one that fails keeps it, and
    a file of that name that is no preview is never overwritten."""
    tiny.write("in.y4m", tiny.y4m_format(), tiny.noise(tiny.y4m_format(), 9))
    lines = [{"prompt": "a cat", "output": "a.mp4"}, {"prompt": "a dog", "seed": 1},
             {"verb": "extend", "input": "in.y4m", "after": 0.5, "output": "longer.y4m"}]  # fmt: skip
    Path("jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("batch", "jobs.jsonl", "--seconds", 0.5, "-o", "{prompt}-{seed}.mp4", "--preview")
    Path("a.preview.webp").write_bytes(b"mine")
    assert sora(*words) == 2 and "jobs.jsonl:1: a.preview.webp already exists" in capfd.readouterr().err
    assert Path("a.preview.webp").read_bytes() == b"mine" and not looks
    Path("a.preview.webp").unlink()

    real = Generation.frames

    def fail(run: Generation) -> Any:
        if run.shot.seed == 1:
            raise Failed("no more")
        return real(run)

    with monkeypatch.context() as broken:
        broken.setattr(Generation, "frames", fail)
        assert sora(*words) == 1
    assert {name for name, *_ in looks} == {"a.preview.webp", "a-dog-1.preview.webp", "longer.preview.webp"}
    assert [path.name for path in Path().glob("*preview*")] == ["a-dog-1.preview.webp"]
    assert sora(*words) == 0 and not list(Path().glob("*preview*"))
    lines[1]["output"] = "a.preview.webp"
    Path("jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    assert sora(*words) == 2 and "is also written by line 1" in capfd.readouterr().err


def test_previews_take_their_share_of_the_time_and_no_more() -> None:
    """Steps of a second each: pictures that take a hundredth of it come after all of them, those that take three
    seconds after one in thirty or so."""
    for cost, least, most in ((0.01, 100, 100), (3.0, 2, 5)):
        now, looked = [0.0], []

        class Slow:
            def preview_frames(self, most: int, cost: float = cost, now: list[float] = now) -> list[np.ndarray]:
                now[0] += cost
                looked.append(now[0])  # noqa: B023
                return []

        shown = Previews(None, Screen(quiet=True), clock=lambda now=now: now[0])  # type: ignore[misc]
        for _ in range(100):
            now[0] += 1.0
            shown.show(Slow())  # type: ignore[arg-type]
        assert least <= len(looked) <= most


# ---- tiny decoders -----------------------------------------------------------------------------------------


@pytest.fixture
def wan(sora: Sora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command line with a tiny model of Wan 2.1's latents, which has a tiny decoder of the real layout."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    wan_folders.write(tmp_path / "model", wan_folders.WAN21, channels=16)
    wan_folders.write_tiny(tmp_path / "tiny.safetensors", 16, 1)
    own = tmp_path / "XDG_CONFIG_HOME" / "sora-cli" / "weights.toml"
    own.parent.mkdir(parents=True)
    parts = "".join(f'  {{ role = "{role}", path = "{tmp_path}/{place}" }},\n' for role, place in {
        "dit": "model/transformer", "vae": "model/vae", "text": "model/text_encoder", "tokenizer": "model/tokenizer",
        "tiny": "tiny.safetensors"}.items())  # fmt: skip
    usage = {"width": 96, "height": 64, "frames": 13, "window": 3, "context": 1, "steps": 2}
    table = f'[small]\nkind = "wan"\nabout = "a test"\nlike = "wan2.1-1.3b"\nparts = [\n{parts}]\n[small.usage]\n'
    own.write_text(table + "".join(f"{name} = {value}\n" for name, value in usage.items()))

    def run(verb: str, *words: object) -> tuple[int, str]:
        return cli.run([verb, *map(str, words), "--model", "small", "--device", "cpu"]), ""

    return run


def test_a_tiny_decoder_shows_every_step_and_sends_nothing_away(
    wan: Command, looks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = Wan.load
    monkeypatch.setattr(Wan, "load", lambda self, role: loads.append(role) or load(self, role))
    assert wan("generate", "a cat", "-o", "a.y4m", "--preview", "--memory", "low")[0] == 0
    assert [frames for _, frames, _ in looks] == [3, 3, 4, 4] and looks[0][2] == (96, 64), "two windows of two steps"
    assert loads == ["text", "dit", "vae"], "each once, though only one of them may be there"


def test_a_draft_says_so_and_is_as_long(wan: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert wan("generate", "a cat", "-o", "full.y4m")[0] == 0
    assert wan("generate", "a cat", "-o", "draft.y4m", "--decoder", "tiny")[0] == 0
    full, draft = (json.loads(Path(f"{name}.json").read_text()) for name in ("full", "draft"))
    assert draft["decoder"] == "tiny" == draft["asked"]["decoder"] and "decoder" not in {**full, **full["asked"]}
    (format, one), (same, other) = tiny.read("full.y4m"), tiny.read("draft.y4m")
    assert format == same and len(one) == len(other) == 13 and one != other
    assert Path("full.safetensors").read_bytes()[-1000:] == Path("draft.safetensors").read_bytes()[-1000:], "latents"
    assert wan("decode", "full.safetensors", "-o", "decoded.y4m", "--decoder", "tiny")[0] == 0
    assert tiny.read("decoded.y4m")[1] == other
    assert wan("loop", "a cat", "--seconds", "0.5", "-o", "loop.y4m", "--decoder", "tiny")[0] == 0
    assert wan("extend", "full.y4m", "--after", "0.5", "-o", "more.y4m", "--decoder", "tiny")[0] == 0
    assert tiny.read("more.y4m")[1][:13] == one
    capsys.readouterr()
    assert wan("generate", "a cat", "-o", "draft.y4m", "--resume")[0] == 2, "a draft is not what is asked"
    assert "decoder" in capsys.readouterr().err


@pytest.mark.parametrize("given", [(), ("--image", "start.png")])
def test_a_draft_is_placed_as_its_plan_says(
    wan: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    """The autoencoder is read for given pictures alone, and memory is that of the plan."""
    Image.new("RGB", (96, 64)).save("start.png")
    words = ("generate", "a cat", *given, "--decoder", "tiny", "--frames", 13, "-o", "a.mp4", "--dtype", "float32")
    assert wan(*words, "--dry-run", "--json")[0] == 0
    told = json.loads(capfd.readouterr().out)["memory"]
    taken, loaded = [], []
    take, load = Wan.take, Wan.load
    monkeypatch.setattr(Wan, "take", lambda self, placement: (taken.append(placement), take(self, placement)))
    monkeypatch.setattr(Wan, "load", lambda self, role: (loaded.append(role), load(self, role))[1])
    assert wan(*words)[0] == 0
    assert ("vae" in loaded) is bool(given)
    assert taken[-1].peak["decoding"] == pytest.approx(told["decoding"]) and len(taken) == 1


def test_what_has_no_tiny_decoder_says_so_in_a_line(
    wan: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["generate", "a cat", "--decoder", "tiny", "-o", "a.mp4"]) == 2
    assert capsys.readouterr().err == (
        "sora-cli: pocket has no tiny decoder; leave out --decoder tiny, or use --decoder full\n"
    )
    for more in (("--preview",), ("--decoder", "tiny")):
        assert cli.run(["generate", "a cat", "--model", "./model", *more, "-o", "a.mp4"]) == 1
        assert capsys.readouterr().err == ("sora-cli: the tiny decoder of ./model (22.6 MB) is not on this machine; "
                                           "`sora-cli weights pull ./model` fetches it\n")  # fmt: skip
    wan_folders.write_tiny(Path("tiny.safetensors"), 48, 2)
    assert wan("generate", "a cat", "-o", "a.mp4", "--decoder", "tiny")[0] == 2
    assert "tiny.safetensors is for latents of 16 pixels a cell, but those of small have 8" in capsys.readouterr().err
    Path("tiny.safetensors").unlink()
    shutil.rmtree("a.mp4.resume")
    for words in (("--decoder", "tiny"), ("--preview",)):
        assert wan("generate", "a cat", "-o", "a.mp4", *words)[0] == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "tiny.safetensors, but nothing is there" in said
    assert wan("generate", "a cat", "--frames", 5, "-o", "a.mp4")[0] == 0, "without it, nobody needs it"
