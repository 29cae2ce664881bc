"""Running out of memory on the way: the networks go where they take less, and the video goes on."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wan_folders
from PIL import Image
from torch import Tensor
from wan_tiny import SHOT, entry_of, locate

from sora_cli import cli, registry
from sora_cli.cli import models
from sora_cli.generation.engine import Engine, Generation, GivenClip
from sora_cli.pipelines.stages import Stage, Stages
from sora_cli.placement import memory
from sora_cli.placement.estimate import dry_run, throughput
from sora_cli.placement.machine import GPU, MAIN, Free, short_of
from sora_cli.placement.memory import Placement, needs_of
from sora_cli.placement.sizes import Needs
from sora_cli.registry import hub
from sora_cli.storage import latent_file
from sora_cli.storage.resume import Windows

GB = 1e9
KINDS = ("text", "dit", "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folders.write(tmp_path_factory.mktemp("wan"), wan_folders.WAN22)


@pytest.fixture
def engine(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A tiny checkpoint that is placed as if it were Wan 2.2 on a machine with room for all of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = entry_of(wan_folders.WAN22, network=registry.entry("wan2.2-5b").network)
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": entry})
    monkeypatch.setattr(hub, "locate", lambda entry: locate(folder))
    monkeypatch.setattr(memory.Free, "on", lambda device: Free("cpu", 100 * GB, 100 * GB))
    return Engine(registry.entry("tiny"), "cpu", "float32")


def refusing(engine: Engine, monkeypatch: pytest.MonkeyPatch, role: str, times: int, error: BaseException,
             after: int = 0) -> list[Placement]:  # fmt: skip
    """Have a network's layers refuse so many times, the first calls left alone; returns how they were placed then."""
    load, seen, calls = type(engine.pipeline).load, list[Placement](), [0]

    def loaded(pipeline: Any, wanted: str) -> Any:
        network = load(pipeline, wanted)
        if wanted != role:
            return network
        forward = network.decode_chunk if role == "vae" else network.forward

        def refused(*words: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] > after and len(seen) < times:
                seen.append(pipeline.placement)
                raise error
            return forward(*words, **named)

        setattr(network, "decode_chunk" if role == "vae" else "forward", refused)
        return network

    monkeypatch.setattr(type(engine.pipeline), "load", loaded)
    return seen


def made(run: Generation) -> tuple[Tensor, list[np.ndarray]]:
    list(run.denoise())
    assert run.latents is not None
    return run.latents, list(run.frames())


ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError(),
          MemoryError(), RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
          RuntimeError("Invalid buffer size: 71.44 GiB"),
          RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
          RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")]  # fmt: skip


@pytest.mark.parametrize(("error", "memory"), zip(ERRORS, [GPU, GPU, MAIN, GPU, GPU, MAIN, GPU], strict=True))
def test_every_device_has_its_own_words(error: Exception, memory: str) -> None:
    assert short_of(error) == memory


@pytest.mark.parametrize("error", [None, RuntimeError("shape '[2]' is invalid"), OSError(28, "No space left on device"),
                                   ValueError("out of memory"), KeyboardInterrupt()])  # fmt: skip
def test_other_errors_are_not_about_memory(error: BaseException | None) -> None:
    assert short_of(error) == ""
    assert short_of(OSError(errno.ENOMEM, "Cannot allocate memory")) == MAIN


@pytest.mark.parametrize("role", KINDS)
def test_the_same_video_comes_out_of_a_stage_that_was_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, role: str, tmp_path: Path
) -> None:
    latents, frames = made(engine.start(SHOT))
    engine.pipeline.release()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    seen = refusing(engine, monkeypatch, role, 2, torch.OutOfMemoryError("CUDA out of memory"))
    run, heard = engine.start(SHOT), list[str]()
    before, run.say = len(run.notes), heard.append
    again, shown = made(run)
    assert torch.equal(again, latents) and len(seen) == 2 and seen[0] != seen[1] != engine.pipeline.placement
    difference = max(int(np.abs(one.astype(int) - same).max()) for one, same in zip(frames, shown, strict=True))
    assert difference == 0 if role != "vae" else difference <= 8, "the decoder alone may have become coarser"
    assert heard == run.notes[before:] and len(heard) == 2
    assert all(line.startswith("ran out of GPU memory while ") and "\n" not in line for line in heard)


def test_a_window_is_made_again_and_those_before_it_are_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    shot = replace(SHOT, frames=41)  # three windows of three steps with guidance
    latents, _ = made(engine.start(shot))
    engine.pipeline.release()
    refusing(engine, monkeypatch, "dit", 1, MemoryError(), after=3 * 2 + 2)  # in the second step of the second
    run, put, steps = engine.start(shot), list[int](), list[int]()
    steps += [progress.done for progress in run.denoise(Counting(put))]
    assert run.latents is not None and torch.equal(run.latents, latents)
    assert put == [0, 1, 2] and steps == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]


@dataclass
class Counting:
    put_there: list[int] = field(default_factory=list)

    def finished(self) -> Iterator[Tensor]:
        return iter(())

    def read(self, number: int, kind: str = "window") -> Tensor | None:
        return None

    def put(self, number: int, latents: Tensor, kind: str = "window") -> None:
        self.put_there.append(number)


@pytest.mark.parametrize("role", KINDS)
def test_only_the_last_placement_ends_the_run(engine: Engine, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    seen = refusing(engine, monkeypatch, role, 100, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        made(engine.start(SHOT))
    assert 2 <= len(seen) == len(set(map(str, seen)))
    last = seen[-1]
    assert not last.keep and (last.text, last.dit, last.vae)[KINDS.index(role)] in ("streamed", "disk", "bfloat16")


def test_other_failures_are_not_tried_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = refusing(engine, monkeypatch, "dit", 100, RuntimeError("shape '[2]' is invalid for input of size 3"))
    with pytest.raises(RuntimeError, match="shape"):
        made(engine.start(SHOT))
    assert len(seen) == 1


def test_frames_that_are_written_are_not_written_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine.start(SHOT)
    _, frames = made(run)
    engine.pipeline.release()
    refusing(engine, monkeypatch, "vae", 1, torch.OutOfMemoryError(), after=3)
    again = list(run.frames())
    assert len(again) == len(frames) == 17
    assert all(np.array_equal(one, same) for one, same in zip(frames[:9], again[:9], strict=True))
    assert max(int(np.abs(one.astype(int) - same).max()) for one, same in zip(frames, again, strict=True)) <= 8


def test_given_pictures_are_encoded_again_with_less(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = list[Placement]()
    clip = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), np.uint8)
    run = engine.start(SHOT, [GivenClip(0, clip)])
    encode = type(run.pipeline.codec).encode

    def once(codec: Any, *words: Any) -> Any:
        refused.append(run.pipeline.placement)
        if len(refused) == 1:
            raise MemoryError
        return encode(codec, *words)

    monkeypatch.setattr(type(run.pipeline.codec), "encode", once)
    assert run.timeline.done() == {0, 1} and len(refused) == 2 and refused[0] != refused[1]
    assert run.notes[-1].startswith("ran out of main memory while decoding")


def test_a_stream_of_pictures_is_encoded_from_where_memory_ran_out(engine: Engine) -> None:
    """`encode` may read a pipe; the first pictures are kept until all memory is taken."""
    pictures = np.random.default_rng(0).integers(0, 256, (17, 64, 96, 3), np.uint8)
    canvas = engine.pipeline.entry.canvas(96, 64)
    engine.pipeline.on_device(canvas, 0, 0)
    due = torch.cat(list(engine.pipeline.codec.encode(iter(pictures), canvas)), 1)
    encode, chunks = engine.pipeline.use("vae").encode_chunk, list[int]()

    def refused(video: Tensor, *rest: Any) -> Tensor:
        chunks.append(video.shape[2])
        if len(chunks) == 2:
            raise torch.OutOfMemoryError
        return encode(video, *rest)

    engine.pipeline.networks["vae"].encode_chunk = refused
    made = torch.cat(list(engine.pipeline.codec.encode(iter(pictures), canvas)), 1)
    assert chunks == [1, 4] and made.shape == due.shape == (due.shape[0], 5, 4, 6), "another network was loaded"
    assert float((made - due).abs().mean()) < 0.05 * float(due.abs().mean()), "up to bfloat16"


def test_a_batch_goes_on_with_what_was_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = refusing(engine, monkeypatch, "dit", 1, torch.OutOfMemoryError())
    made(engine.start(SHOT))
    low = engine.pipeline.placement
    made(engine.start(replace(SHOT, seed=4)))
    assert engine.pipeline.placement == low != seen[0]


@pytest.mark.parametrize("change", [{}, {"frames": 41}, {"plan": "full", "frames": 81}, {"loop": True, "frames": 32}])
@pytest.mark.parametrize("free", [100 * GB, 30 * GB])
def test_a_dry_run_places_networks_where_the_engine_does(engine: Engine, monkeypatch: pytest.MonkeyPatch, change: dict,
                                                         free: float) -> None:  # fmt: skip
    monkeypatch.setattr(throughput, "rates", lambda *_: throughput.Rates(1e12, 1e12, 1e12))
    monkeypatch.setattr(memory.Free, "on", lambda device: Free("cpu", free, free))
    shot, picture = replace(SHOT, **change), np.zeros((1, 64, 96, 3), np.uint8)
    for at in [()] if shot.loop else [(), tuple(range(4, shot.frames, 4))]:
        engine.pipeline.needs = None
        run = engine.start(shot, [GivenClip(one, picture) for one in at])
        assert dry_run(run.plan, "cpu", "float32").placement == engine.pipeline.placement


# ---- going on ---------------------------------------------------------------------------------------------


def test_where_the_networks_lie_is_not_what_a_video_is(engine: Engine, tmp_path: Path) -> None:
    """A run that began with all in float32 goes on in what is left, with the same given latents."""
    shot, clip = replace(SHOT, frames=41), np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), np.uint8)
    whole = engine.start(shot, [GivenClip(0, clip)])
    list(whole.denoise(Windows(tmp_path / "a", whole.identity())))
    engine.pipeline.needs, engine.pipeline.memory = None, "low"
    again = engine.start(shot, [GivenClip(0, clip)])
    assert again.pipeline.placement != Placement("cpu", "resident", "float32", 0, 0, True)
    (tmp_path / "a" / "window-00002.safetensors").unlink()
    list(again.denoise(Windows(tmp_path / "a", again.identity())))
    assert torch.equal(whole.timeline.latents, again.timeline.latents)
    assert whole.latents is not None and again.latents is not None and torch.equal(whole.latents, again.latents)


def test_another_picture_is_another_video(engine: Engine) -> None:
    one, other = (np.random.default_rng(seed).integers(0, 256, (5, 64, 96, 3), np.uint8) for seed in (0, 1))
    given = [], [GivenClip(0, one)], [GivenClip(0, other)], [GivenClip(12, one)], [GivenClip(0, one[:1])]
    identities = [engine.start(SHOT, known).identity() for known in given]
    assert len(set(identities)) == 5
    assert engine.start(SHOT, [GivenClip(0, one.copy())]).identity() == identities[1]


# ---- which placement --------------------------------------------------------------------------------------


def needs(name: str = "wan2.2-5b") -> Needs:
    entry = registry.entry(name)
    return needs_of(entry, entry.canvas(entry.usage.width, entry.usage.height), 31, 31, 2)


@pytest.mark.parametrize("stage", ["text", "denoising", "decoding"])
@pytest.mark.parametrize(("kind", "device"), [("cuda", 141), ("cuda", 24), ("mps", 64), ("cpu", 64)])
def test_every_step_down_takes_less_where_it_was_short(stage: str, kind: str, device: float) -> None:
    one, free = needs(), Free(kind, device * GB, 128 * GB if kind == "cuda" else device * GB)
    now: Placement | None = memory.choose(one, free)
    taken = list[float]()
    while now is not None:
        taken.append(memory.peaks(now, one, free)[stage])
        last, now = now, memory.lower(now, stage, GPU, one, free)
    assert taken == sorted(set(taken), reverse=True)
    least = min(memory.peaks(option, one, free)[stage] for option in memory.placements(one, free))
    assert memory.peaks(last, one, free)[stage] == least, "the last one takes the least there is"


def test_main_memory_that_ran_out_beside_a_gpu_is_what_counts() -> None:
    one, free = needs(), Free("cuda", 8 * GB, 64 * GB)
    streamed = memory.choose(one, free)
    assert streamed.dit == "streamed"
    lower = memory.lower(streamed, "denoising", MAIN, one, free)
    assert lower is not None and lower.peak["host"] < streamed.peak["host"]
    assert lower.peak["denoising"] <= free.device


def test_what_is_not_there_is_not_taken() -> None:
    """Blocks in main memory need main memory."""
    one = needs()
    now = memory.choose(one, Free("cuda", 24 * GB, 64 * GB))
    lower = memory.lower(now, "denoising", GPU, one, Free("cuda", 4 * GB, 4 * GB))
    while now.dit == "resident" and lower is not None and lower.dit == "resident":
        now, lower = lower, memory.lower(lower, "denoising", GPU, one, Free("cuda", 4 * GB, 4 * GB))
    assert lower is not None and lower.dit == "disk"


# ---- attempts ---------------------------------------------------------------------------------------------


@dataclass
class Moving:
    """Networks that can be placed lower so many times."""

    left: int
    events: list[str] = field(default_factory=list)

    def lower(self, stage: str, memory: str) -> str:
        self.left -= 1
        self.events.append(f"{stage}, {memory}")
        return f"placement {self.left}" if self.left >= 0 else ""

    def release(self) -> None:
        self.events.append("released")


def failing(times: int) -> Callable[[], str]:
    left = iter(range(times))

    def work() -> str:
        if next(left, None) is not None:
            raise MemoryError
        return "done"

    return work


def test_work_is_done_again_until_nothing_is_left() -> None:
    moving, heard = Moving(2), list[str]()
    stage = Stage("text", moving, heard.append)
    assert stage.do(failing(2)) == "done"
    assert moving.events == ["text, main memory", "released"] * 2
    assert heard == [f"ran out of main memory while reading the prompt; continues: placement {n}" for n in (1, 0)]
    with pytest.raises(MemoryError):
        stage.do(failing(1))
    with pytest.raises(MemoryError):
        Stages().text.do(failing(1))


def test_what_was_held_is_free_before_the_next_attempt() -> None:
    import weakref

    class Big: ...

    held = list[weakref.ref[Big]]()

    def work() -> bool:
        if held:
            return held[0]() is None
        big = Big()
        held.append(weakref.ref(big))
        raise MemoryError

    assert Stage("text", Moving(1)).do(work), "the failed attempt still holds what it had made"


# ---- as a user --------------------------------------------------------------------------------------------


WORDS = ["generate", "a cat", "--model", "tiny", "--frames", "41", "--res", "96x64", "--steps", "1", "--image",
         "start.png", "--device", "cpu", "--dtype", "float32"]  # fmt: skip


def test_what_is_advised_goes_on_with_the_video(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "check_model", lambda *words: None)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save("start.png")
    assert cli.run([*WORDS, "-o", "whole.mp4"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as short:
        refusing(engine, short, "dit", 99, torch.OutOfMemoryError(), after=2)  # in the second window
        assert cli.run([*WORDS, "-o", "a.mp4"]) == 1
    *notes, line = capsys.readouterr().err.splitlines()
    assert "--resume continues" in line and "--memory low" in line
    assert sum(note.startswith("ran out of GPU memory while denoising; continues: ") for note in notes) > 1
    kept = {path.name for path in Path("a.mp4.resume").glob("*.safetensors")}
    assert kept == {"given-00000.safetensors", "window-00000.safetensors"}
    assert cli.run([*WORDS, "-o", "a.mp4", "--resume", "--frames", "21"]) == 2, "that is another video"
    assert "shot.frames was 41 and is now 21" in capsys.readouterr().err
    assert cli.run([*WORDS, "-o", "a.mp4", "--resume", "--memory", "low"]) == 0
    assert torch.equal(latent_file.load("whole.safetensors")[0], latent_file.load("a.safetensors")[0])
    assert not Path("a.mp4.resume").exists()
