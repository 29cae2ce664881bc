"""The command line: refusals before any work, what comes out, exit codes; a tiny engine stands in."""

import json
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked

from sora_cli import cli, geometry, media, registry
from sora_cli.cli import models
from sora_cli.cli.describing import shot_in
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.generation.plan import Plan
from sora_cli.prompts.grammar import expand
from sora_cli.shot import Shot
from sora_cli.storage import latent_file
from sora_cli.storage.resume import Windows


class FakeRun:
    """A grey ramp, 64x40 before scaling."""

    source_size, plan = (64, 40), types.SimpleNamespace(clock=None, entry=registry.entry("pocket"))

    def __init__(self, shot: Shot) -> None:
        self.shot = shot
        self.notes = ["pocket does not know: xylo"] if "xylo" in shot.prompt else []
        self.warnings: list[str] = []
        self.flops = 1e9
        self.timings = {"text": 0.1, "denoise": 0.2}
        self.span = geometry.Span(0, shot.frames)
        canvas = geometry.canvas(shot.width, shot.height)
        self.latents = torch.zeros(24, self.span.latents, canvas.height // 16, canvas.width // 16)

    def identity(self) -> str:
        return self.shot.to_json()

    def denoise(self, store: Windows | None) -> Iterator[types.SimpleNamespace]:
        for done in range(1, self.shot.steps + 1):
            yield types.SimpleNamespace(stage="denoise", done=done, total=self.shot.steps)
            if self.shot.prompt == "interrupt":
                raise KeyboardInterrupt
            if self.shot.prompt in FROM_TORCH:
                raise RuntimeError(FROM_TORCH[self.shot.prompt])
            if self.shot.prompt == "nan":
                raise Failed("the video came out as NaN")
        if store and not list(store.finished()):
            store.put(0, self.latents)

    def frames(self) -> Iterator[np.ndarray]:
        for i in range(self.shot.frames):
            if self.shot.prompt == "late interrupt" and i:
                raise KeyboardInterrupt
            if self.shot.prompt == "late failure" and i:
                raise OSError(28, "No space left on device")
            yield np.full((40, 64, 3), (60 + i + self.shot.seed) % 256, np.uint8)


FROM_TORCH = {  # what its RuntimeErrors say
    "cuda": "CUDA out of memory. Tried to allocate 71.00 GiB. GPU 0 has a total capacity of 24 GiB\nmore",
    "mps": "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1 GB, max allowed: 9.07 GB).",
    "metal": "Invalid buffer size: 71.44 GiB",
    "cpu": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
           "allocate 281474976710656 bytes. Error code 12 (Cannot allocate memory)",
    "bug": "shape '[2]' is invalid for input of size 3",
}  # fmt: skip


class FakeEngine:
    def __init__(self, model: str, device: str = "auto", *where: object) -> None:
        if device == "cuda":
            raise SoraError("there is no CUDA device here; use --device cpu")

    def generation(self, plan: Plan, given: Sequence[object]) -> FakeRun:
        return FakeRun(plan.shot)


@pytest.fixture
def sora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run one command line in an empty folder with the stand-in engine; returns the exit code."""
    engine = types.ModuleType("sora_cli.generation.engine")
    engine.Engine = FakeEngine  # type: ignore[attr-defined]
    engine.GivenClip = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sora_cli.generation.engine", engine)
    monkeypatch.setattr(registry, "verify", lambda model: None)
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.run([str(word) for word in words], debug="--debug" in words)


BEGUN = ["a.mp4.resume", "a.mp4.resume/identity.json", "a.mp4.resume/window-00000.safetensors"]


def everything(folder: Path | str = ".") -> list[str]:
    """All files and folders, however deep."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def beside(*names: str) -> list[str]:
    """Finished videos with what is kept beside them."""
    return sorted(name + suffix for name in names for suffix in (".mp4", ".json", ".safetensors"))


def generate(sora: Callable[..., int], prompt: str, *words: object) -> int:
    return sora("generate", prompt, "--res", "96x64", *words)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("",), "prompt is empty"),
        (("x", "--res", "0x0"), "out of range"),
        (("x", "--res", "1280"), "WIDTHxHEIGHT"),
        (("x", "--res", "abc"), "WIDTHxHEIGHT"),
        (("x", "--res", "641x361"), "nearest is 642x362"),
        (("x", "--seconds", "0"), "above 0"),
        (("x", "--seconds", "-3"), "above 0"),
        (("x", "--seconds", "nan"), "above 0"),
        (("x", "--seconds", "86400"), "at most 3600"),
        (("x", "--seconds", "soon"), "--seconds"),
        (("x", "--seconds", "0.001"), "less than one frame"),
        (("x", "--frames", "0"), "frames is 0"),
        (("x", "--frames", "-5"), "frames is -5"),
        (("x", "--fps", "0"), "from 1 to 120"),
        (("x", "--fps", "1000"), "from 1 to 120"),
        (("x", "--seconds", "1", "--frames", "9"), "give one of them"),
        (("x", "--steps", "0"), "steps is 0"),
        (("x", "--plan", "zigzag"), "full, autoregressive"),
        (("x", "--model", "veo"), "known models: pocket"),
        (("x", "--device", "tpu"), "--device"),
        (("x", "--device", "cuda"), "no CUDA device"),
        (("x", "--seed", "-2"), "--seed is '-2'; it must be a whole number from 0 to 9223372036854775807"),
        (("x", "--seed", "18446744073709551615"), "it must be a whole number from 0 to 9223372036854775807, or random"),
        (("x", "--seed", "seven"), "--seed is 'seven'"),
        (("x", "--seed", "1.5"), "--seed is '1.5'"),
        (("x", "--seed", ""), "--seed is ''"),
        (("x", "--seed", "9" * 5000), "--seed is '999"),
        (("x", "--seed", "9" * 19), "--seed is '9999"),
        (("x", "-n", "0"), "-n"),
        (("x", "-n", "2", "-o", "a.mp4"), "put {seed} or {n}"),
        (("x", "-o", "{colour}.mp4"), "unknown {colour}"),
        (("x", "-o", "nowhere/a.mp4"), "no folder nowhere"),
        (("x", "-o", "a.txt"), "must end in .mp4"),
        (("x", "-o", "a.png"), "--frames 1"),
        (("x", "-o", "folder.mp4"), "is a folder"),
        (("x", "-o", "taken.mp4"), "--force"),
        (("x", "--bogus"), "--bogus"),
        ((), "prompt is empty"),
    ],
)
def test_nonsense_is_one_line_and_two(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    Path("folder.mp4").mkdir()
    Path("taken.mp4").write_text("mine")
    assert sora("generate", *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sora-cli: ") and err.count("\n") == 1
    assert complaint in err
    assert sorted(os.listdir()) == ["folder.mp4", "taken.mp4"]


def test_exactly_what_was_asked(sora: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(sora, "A cat, surfing!", "--seconds", 0.5, "--fps", 30) == 0
    assert capsys.readouterr().out == "a-cat-surfing.mp4\n"
    found = media.probe("a-cat-surfing.mp4")
    assert (found.width, found.height, found.frames, found.fps) == (96, 64, 15, 30)
    shot = Shot.from_json(found.metadata["sora"])
    captions = ("a large cat surfing normal, ocean, camera still, middle, low, beat one",)
    usual = models.default_shot(registry.entry("pocket"), "A cat, surfing!")
    assert shot == replace(usual, width=96, height=64, frames=15, fps=30, captions=captions)
    assert sorted(os.listdir()) == beside("a-cat-surfing")
    record = json.loads(Path("a-cat-surfing.json").read_text())
    assert (record["output"], record["frames"], record["shot"]) == ("a-cat-surfing.mp4", 15, json.loads(shot.to_json()))
    assert latent_file.read_header("a-cat-surfing.safetensors").video == weights.hash_of(Path("a-cat-surfing.mp4"))


@pytest.mark.parametrize("words", [("--no-metadata",), ("-o", "a-cat.gif", "--no-metadata"), ("-o", "%d.png")])
def test_nothing_is_kept_beside_where_nobody_wants_it(sora: Callable[..., int], words: tuple[str, ...]) -> None:
    assert generate(sora, "a cat", "--frames", 2, *words) == 0
    assert sorted(os.listdir()) in (["a-cat.mp4"], ["a-cat.gif"], ["1.png", "2.png"])
    if words == ("--no-metadata",):
        assert "sora" not in media.probe("a-cat.mp4").metadata


def test_json_is_one_line_a_video(sora: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(sora, "xylo", "--frames", 3, "-n2", "--seed", 7, "--json", "-o", "{n}-{seed}.mp4") == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["output"] for line in lines] == ["1-7.mp4", "2-8.mp4"]
    assert [line["shot"]["seed"] for line in lines] == [7, 8]
    assert set(lines[0]["timings"]) == {"text", "denoise", "encode"}
    assert "does not know: xylo" in err and lines[0]["notes"]
    assert sorted(os.listdir()) == beside("1-7", "2-8")
    assert [json.loads(Path(name).read_text()) for name in ("1-7.json", "2-8.json")] == lines


@pytest.mark.parametrize("word", ["random", "-1"])
def test_a_random_seed_is_drawn_once_said_and_recorded(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert generate(sora, "a cat", "--frames", 2, "-n", 3, "--seed", word, "-o", "{n}.mp4") == 0
    err = capsys.readouterr().err
    (drawn,) = [int(line.removeprefix("seed ")) for line in err.splitlines() if line.startswith("seed ")]
    shots = [json.loads(Path(f"{n}.json").read_text())["shot"] for n in (1, 2, 3)]
    assert [shot["seed"] for shot in shots] == [drawn, drawn + 1, drawn + 2] and 0 <= drawn < 2**31
    assert json.loads(media.probe("1.mp4").metadata["sora"])["seed"] == drawn
    assert generate(sora, "a cat", "--frames", 2, "--seed", word, "-o", "b.mp4", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert json.loads(Path("b.json").read_text())["shot"]["seed"] not in (0, drawn)


def test_every_video_of_several_has_its_own_caption(sora: Callable[..., int]) -> None:
    assert generate(sora, "a cat on the left", "--frames", 2, "-n", 4, "-o", "{n}.mp4") == 0
    shots = [shot_in(Path(f"{n}.mp4")) for n in (1, 2, 3, 4)]
    assert [shot.captions for shot in shots] == [(expand(shot.prompt, shot.seed).caption,) for shot in shots]
    assert len({shot.captions for shot in shots}) == 4
    assert all("left side" in shot.captions[0] for shot in shots)


def test_a_video_made_again_keeps_its_caption_but_for_what_another_seed_chooses(sora: Callable[..., int]) -> None:
    def made(*words: object) -> Shot:
        assert sora("generate", *words, "--force") == 0
        return shot_in(Path("b.mp4"))

    assert generate(sora, "a cat", "--frames", 2, "--seed", 5, "-o", "a.mp4") == 0
    first = shot_in(Path("a.mp4"))
    assert made("--from", "a.mp4", "-o", "b.mp4") == first
    again = made("--from", "a.mp4", "--seed", 6, "-o", "b.mp4")
    assert again == replace(first, seed=6, captions=(expand("a cat", 6).caption,)) and again.captions != first.captions
    assert made("--from", "b.mp4", "--seed", 5, "-o", "b.mp4") == first
    written = replace(first, captions=("a small owl spinning fast, moon, camera still, left side, low, beat two",))
    Path("mine.json").write_text(json.dumps({"shot": written.to_dict()}))      # as an LLM has it, completed by seed 5
    assert made("--from", "mine.json", "-o", "b.mp4") == written
    assert made("--from", "mine.json", "--seed", 7, "-o", "b.mp4").captions[0].startswith("a small owl spinning fast, ")
    typed = replace(first, captions=("a cat",))                                # --expand off
    Path("mine.json").write_text(json.dumps({"shot": typed.to_dict()}))
    assert made("--from", "mine.json", "--seed", 7, "-o", "b.mp4") == replace(typed, seed=7)
    assert sora("generate", "--from", "a.mp4", "-n", 2, "-o", "{n}-again.mp4") == 0
    assert [shot_in(Path(f"{n}-again.mp4")) for n in (1, 2)] == [first, again]


def test_default_names_of_several(sora: Callable[..., int]) -> None:
    assert generate(sora, "a cat", "--frames", 2, "-n", 2) == 0
    assert sorted(os.listdir()) == beside("a-cat-0", "a-cat-1")


def test_quiet_says_nothing(sora: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(sora, "a xylo", "--frames", 2, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_one_frame_is_an_image(sora: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert generate(sora, "a cat", "--frames", 1, "-o", "x.png") == 0
    with Image.open("x.png") as image:
        assert image.size == (96, 64)
        assert Shot.from_json(image.info["sora"]).prompt == "a cat"


def test_force_overwrites(sora: Callable[..., int]) -> None:
    Path("a.mp4").write_text("old")
    assert generate(sora, "a cat", "--frames", 2, "-o", "a.mp4", "--force") == 0
    assert media.probe("a.mp4").frames == 2


@pytest.mark.parametrize(("prompt", "left"), [("interrupt", []), ("late interrupt", BEGUN)])
def test_ctrl_c_is_130(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], prompt: str, left: list[str]
) -> None:
    assert generate(sora, prompt, "--frames", 20, "-o", "a.mp4") == 130
    assert capsys.readouterr().err.strip().endswith("sora-cli: interrupted")
    assert everything() == left


@pytest.mark.parametrize(
    ("prompt", "complaint", "left"), [("nan", "NaN", []), ("late failure", "No space left", BEGUN)]
)
def test_failures_are_one(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], prompt: str, complaint: str, left: list[str]
) -> None:
    assert generate(sora, prompt, "--frames", 5, "-o", "a.mp4") == 1
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert everything() == left


def test_what_was_begun_is_not_overwritten_unasked(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(sora, "late failure", "--frames", 5, "-o", "a.mp4") == 1
    capsys.readouterr()
    assert generate(sora, "a cat", "--frames", 5, "-o", "a.mp4") == 2
    assert "--resume continues it, --force starts over" in capsys.readouterr().err
    assert everything() == BEGUN
    assert generate(sora, "a cat", "--frames", 5, "-o", "a.mp4", "--resume") == 2
    assert "prompt was" in capsys.readouterr().err and everything() == BEGUN
    assert generate(sora, "a cat", "--frames", 5, "-o", "a.mp4", "--force") == 0
    assert everything() == beside("a")


@pytest.mark.parametrize("name", ["a.json", "a.safetensors", "%d.png"])
def test_files_beside_are_not_overwritten_unasked(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mine, output = Path(name.replace("%d", "1")), "%d.png" if "%" in name else "a.mp4"
    mine.write_text("mine")
    assert generate(sora, "nan", "--frames", 2, "-o", output) == 2
    assert str(mine) in capsys.readouterr().err and everything() == [str(mine)]
    assert generate(sora, "a cat", "--frames", 2, "-o", output, "--force") == 0
    assert mine.read_bytes() != b"mine"


@pytest.mark.parametrize(("prompt", "memory"), [("cuda", "GPU"), ("mps", "GPU"), ("metal", "GPU"), ("cpu", "main")])
def test_running_out_of_memory_is_one_line(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], prompt: str, memory: str
) -> None:
    assert generate(sora, prompt, "--frames", 5) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == (f"sora-cli: ran out of {memory} memory; --resume continues after the finished windows, also with "
                    "--memory low; a smaller --res or fewer --frames needs --force")  # fmt: skip
    again = prompt, "--frames", 5, "--memory", "low", "--resume"
    assert generate(sora, *again) == 1 and "ran out" in capsys.readouterr().err, "the advice is refused"
    assert generate(sora, prompt, "--frames", 2, "--force") == 1 and "ran out" in capsys.readouterr().err
    for words in ((prompt, "--debug"), ("bug",)):
        with pytest.raises(RuntimeError):
            generate(sora, *words, "--frames", 5, "-o", "b.mp4", "--force")


@pytest.mark.parametrize("pipe", [("-o", "-"), ("-o-",), ("--output=-",)])
def test_a_pipe_that_keeps_nothing_is_not_gone_on_with(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], pipe: tuple[str, ...]
) -> None:
    assert generate(sora, "cpu", "--frames", 5, *pipe) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "sora-cli: ran out of main memory; try --memory low, a smaller --res or fewer --frames"


def test_torch_says_that_it_ran_out_of_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "app", lambda *words, **how: torch.empty(1 << 46))
    assert cli.run(["evaluate"]) == 1
    assert capsys.readouterr().err == "sora-cli: ran out of main memory\n"


def test_debug_keeps_the_traceback(sora: Callable[..., int]) -> None:
    with pytest.raises(Failed):
        generate(sora, "nan", "--frames", 5, "--debug")


def test_a_full_disk_is_seen_before_the_work(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: types.SimpleNamespace(free=1_000_000))
    assert generate(sora, "a cat") == 1
    assert "1 MB free" in capsys.readouterr().err


def test_damaged_weights_are_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dit.safetensors").write_bytes(b"tampered")
    file = registry.WeightFile(tmp_path / "dit.safetensors", 8, "0" * 64)
    monkeypatch.setattr(registry, "registry", lambda: {"pocket": registry.Entry("pocket", "sora", "", (file,))})
    assert cli.run(["generate", "a cat", "-o", str(tmp_path / "a.mp4")]) == 1
    assert "dit.safetensors are damaged or changed" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["dit.safetensors"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("train", "gan"), "gan"),
        (("train", "vae", "--data", "films"), "unknown --data 'films'; use world"),
        (("train", "vae", "--minutes", "0"), "above 0"),
        (("train", "dit", "--minutes", "nan"), "--minutes is nan; it must be above 0 and finite"),
        (("train", "clip", "--minutes", "inf"), "--minutes is inf"),
        (("train", "dit", "--seed", "9" * 23), "--seed"),
        (("train", "lora", "--threads", "0"), "--threads"),
        (("world", "--seed", "9" * 19), "--seed"),
        (("train", "vae", "--steps", "0"), "--steps"),
        (("train", "clip", "--out", ""), "the name of the folder is empty"),
        (("train", "export", "--init", "pocket", "--out", ""), "the name of the folder is empty"),
        (("train", "lora", "--data", ""), "the name of the folder is empty"),
        (("info", ""), "the name of the folder is empty"),
        (("caption", ""), "the name of the folder is empty"),
        (("data", "build", "", "-o", "d"), "the name of the folder is empty"),
        (("encode", ""), "VIDEO is empty; give a name"),
        (("extend", ""), "VIDEO is empty; give a name"),
        (("reverse", ""), "ANCHOR is empty; give a name"),
        (("serve", "--dir", ""), "the name of the folder is empty"),
        (("serve", "--host", ""), "--host is empty; give a name, or leave it out"),
        (("serve", "--token", ""), "the token must have at least 16"),
        (("serve", "--max-body", "inf"), "--max-body"),
        (("serve", "--keep-disk", "inf"), "--keep-disk"),
        (("serve", "--max-res", "wide"), "'wide' is not WIDTHxHEIGHT"),
        (("train", "clip", "--prefetch", "2"), "--prefetch"),
        (("train", "dit", "--compile", "--shard"), "and no --shard"),
        (("train", "vae", "--init", "pocket", "--details", "--decoder-only"), "use one of them"),
        (("generate", "a cat", "--from", "x" * 5000), "too long"),
        (("train", "dit", "--vae", "nowhere.safetensors"), "no weights nowhere"),
        (("world", "--sample", "0"), "--sample"),
        (("world", "-o", "sheet.jpg"), "must end in .png"),
        (("evaluate", "--model", "veo"), "known models: pocket"),
        (("dance",), "dance"),
    ],
)
def test_the_other_commands_refuse_too(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    assert sora(*words) == 2
    err = capsys.readouterr().err
    assert complaint in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("train",), ("data",), ("weights",)])
def test_a_group_alone_shows_its_commands(
    sora: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert sora(*words) == 0
    out, err = capsys.readouterr()
    assert "Commands" in out and err == ""


def test_train_hands_over_what_was_asked(sora: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    recipe = types.ModuleType("sora_cli.train.recipes.vae")
    recipe.train = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sora_cli.train.recipes.vae", recipe)
    monkeypatch.setattr("sora_cli.train.recipes.vae", recipe, raising=False)
    assert sora("train", "vae", "--preset", "mini", "--steps", "9", "--fresh", "--seed", "3", "--threads", "2") == 0
    (options,) = seen
    assert (options.preset, options.steps, options.seed, options.resume) == ("mini", 9, 3, False)
    assert options.threads == 2
    assert options.folder == Path("runs/vae-mini")


def test_version_and_help(sora: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sora("--version") == 0
    assert capsys.readouterr().out == "sora-cli 0.1.0\n"
    assert sora("--help") == 0
    assert "generate" in capsys.readouterr().out


STOPPED = """
import sys, types
from test_cli import FakeEngine, FakeRun
from sora_cli import cli, registry
import time
engine = types.ModuleType("sora_cli.generation.engine")
engine.Engine, engine.GivenClip = FakeEngine, object
sys.modules["sora_cli.generation.engine"] = engine
registry.verify = lambda model: None
slow = FakeRun.frames
def frames(self):
    for frame in slow(self):
        print("frame", flush=True)
        time.sleep(0.05)
        yield frame
FakeRun.frames = frames
cli.main(["generate", "a cat", "--frames", "400", "--res", "96x64", "-o", "a.mp4"])
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_only_what_is_finished(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    with Forked(STOPPED, folder=tmp_path) as process:
        assert process.stdout
        for _ in range(3):
            process.stdout.readline()
        os.killpg(process.pid, sent)
        assert process.wait() == code, process.said()
    assert everything(tmp_path) == BEGUN


@pytest.mark.parametrize("text", ["a" * 5000, "b\n" * 3000, "\ud800" * 2000])
def test_an_error_is_a_line_of_some_length(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.complain(text.encode(errors="backslashreplace").decode(), 2) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sora-cli: ") and len(line) < 1000
