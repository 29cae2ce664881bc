"""The training loop and the DiT's data: resuming, schedules, and what counts in the loss."""

import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import everything
from torch import nn

from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.models.sora.dit import Conditions, Dit, DitConfig
from sora_cli.models.sora.patches import Grid, patchify, unpatchify
from sora_cli.models.sora.vae import Vae, VaeConfig, from_weights
from sora_cli.sampling import flow
from sora_cli.train.align import Learner
from sora_cli.train.data.noising import NoisedSample, example
from sora_cli.train.data.packing import Clip, Pack
from sora_cli.train.data.tasks import Task
from sora_cli.train.data.world_packs import BUDGET, Bucket, LatentCache, Phase, Schedule, WorldPacks, begin
from sora_cli.train.frozen import CachedTextEncoder
from sora_cli.train.options import DitOptions, TrainOptions, VaeOptions
from sora_cli.train.recipes import distil, grow
from sora_cli.train.recipes import dit as dit_training
from sora_cli.train.recipes import vae as vae_training
from sora_cli.train.trainer import checkpoint
from sora_cli.train.trainer.checkpoint import Ema, Progress, checkpoints
from sora_cli.train.trainer.config import Losses, TrainerConfig, generator
from sora_cli.train.trainer.loop import fit, optimizers
from sora_cli.train.trainer.monitor import Monitor
from sora_cli.train.trainer.prefetch import Prefetcher
from sora_cli.train.trainer.stage import Stage, save_sheet
from sora_cli.world import dense

CPU = torch.device("cpu")
TINY_VAE = VaeConfig(space=4, details=0, time=2, deep=16, wide=8, paint=8, tail=8, blocks=1, memory=2, zoom=1)


def options(out: Path, kind: type[TrainOptions] = VaeOptions, **changes: Any) -> Any:
    return kind(**{"steps": 4, "batch": 1, "seed": 3, "out": out, "device": "cpu", "dtype": "float32", **changes})


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        self.bias = nn.Parameter(torch.zeros(16))

    def hidden_weights(self) -> list[nn.Parameter]:
        return [block.weight for block in self.blocks]  # type: ignore[misc]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[1](self.blocks[0](x).relu()) + self.bias


class Negation(Stage[Any]):
    """Learn to negate; `stop` dies as a killed process would, right before that step, and step `bad` has no loss."""

    stop: int | None = None
    bad: int | None = None

    def __init__(self, asked: TrainOptions, steps: int, rate: float = 0.02, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(asked, CPU, dtype)
        torch.manual_seed(0)
        self.model, self.frozen = Toy(), dict[str, Any]()
        self.config = TrainerConfig(steps=steps, batch=32, rate=rate, warmup=2, save_every=5)

    def batch(self, step: int) -> torch.Tensor:
        if step == self.stop:
            raise KeyboardInterrupt
        x = torch.randn(32, 16, generator=generator(3, step))
        return x * torch.nan if step == self.bad else x

    def loss(self, x: torch.Tensor) -> Losses:
        counts = {"samples": torch.tensor(32.0), "tokens": torch.tensor(320.0), "flops": torch.tensor(1e6)}
        return {"loss": (self.model(x) + x).square().mean(), **counts}

    def sample(self, model: nn.Module, path: Path) -> None:
        save_sheet(path, [torch.zeros(3, 2, 8, 8)])

    def identity(self) -> dict[str, Any]:
        return self.frozen


def toy_run(out: Path, steps: int, stop: int | None = None, bad: int | None = None, rate: float = 0.02,
            frozen: dict[str, Any] | None = None, precision: torch.dtype = torch.float32,
            **asked: object) -> dict[str, torch.Tensor]:  # fmt: skip
    stage = Negation(options(out, **asked), steps, rate, precision)
    stage.stop, stage.bad, stage.frozen = stop, bad, frozen or {}
    return fit(stage)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = toy_run(tmp_path / "whole", 20)
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "cut", 20, stop=13)
    assert [p.name for p in checkpoints(tmp_path / "cut")] == ["checkpoint-0000010"]
    resumed = toy_run(tmp_path / "cut", 20)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize("ahead", [1, 3])
def test_batches_made_ahead_change_nothing(tmp_path: Path, ahead: int) -> None:
    whole, early = toy_run(tmp_path / "whole", 12), toy_run(tmp_path / "early", 12, kind=DitOptions, prefetch=ahead)
    assert all(torch.equal(whole[k], early[k]) for k in whole)


def test_a_thread_makes_what_comes_next_and_nothing_beyond_the_end() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return -number

    with Prefetcher(make, ahead=2, stride=3, end=14) as feed:
        assert [feed(number) for number in (1, 4, 7, 10, 13)] == [-1, -4, -7, -10, -13]
    assert made == [1, 4, 7, 10, 13]


def test_what_fails_in_the_thread_fails_where_it_is_asked_for() -> None:
    with Prefetcher({0: "here"}.__getitem__, ahead=1, stride=1, end=9) as feed:
        assert feed(0) == "here"
        with pytest.raises(KeyError):
            feed(1)


# -- Early warnings ---------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"step 14 has a loss of nan .*checkpoint-0000010 is from before.* another --seed"):
        toy_run(tmp_path, 20, bad=13)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-0000010"]
    model = Toy()
    average, optims = Ema(model, 0.9), optimizers(model, TrainerConfig(1, 1, 1.0))
    assert checkpoint.progress(tmp_path).step == 10
    checkpoint.load(tmp_path, model, average, optims)


@pytest.mark.parametrize("about", [
    '{"step": 3, "batches": 1, "seconds": null}', '{"step": "3"}', '{"step": -1}', '{"step": 3, "batches": 0}', "[]",
    "{}", '{"step": 3}', '{"step": 3, "batches": 1, "seconds": 1, "shards": 5}', "[" * 9000,
    '{"step": true}', '{"step": 3, "seconds": NaN}', '{"step": 3, "seconds": 1e999}', '{"steps": 3}', "",
])  # fmt: skip
def test_a_record_of_a_run_that_says_nothing_of_it(tmp_path: Path, about: str) -> None:
    (tmp_path / "checkpoint-0000003").mkdir()
    (tmp_path / "checkpoint-0000003" / checkpoint.ABOUT).write_text(about)
    with pytest.raises(SoraError, match="is damaged or from an older version"):
        checkpoint.progress(tmp_path)


@pytest.mark.parametrize(
    ("how", "said"), [("a bit", "is damaged"), ("cut", "bytes instead of"), ("gone", "is missing")]
)
def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path, how: str, said: str) -> None:
    toy_run(tmp_path, 5)
    (shard,) = tmp_path.glob("checkpoint-*/*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 64
    shard.unlink() if how == "gone" else shard.write_bytes(content if how == "a bit" else content[:-9])
    before = everything(tmp_path)
    with pytest.raises(SoraError, match=rf"{shard.name} .*{said}.*; start over with --fresh"):
        toy_run(tmp_path, 10)
    assert everything(tmp_path) == before


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    model = Toy()
    average, optims = Ema(model, 0.9), optimizers(model, TrainerConfig(1, 1, 1.0))
    checkpoint.save(tmp_path, Progress(5), model, average, optims)
    average.state["bias"][3] = torch.inf
    with pytest.raises(Failed, match="weights are not finite after step 6"):
        checkpoint.save(tmp_path, Progress(6), model, average, optims)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-0000005"]


def warnings(losses: list[float], waited: float = 0.0) -> list[str]:
    watch = Monitor()
    return [line for loss in losses for line in watch(loss, 1.0, waited)]


def test_divergence_is_said_once() -> None:
    noisy = [1 + 0.5 * (i % 3) for i in range(300)]
    assert warnings(noisy) == [] and warnings([9.0] * 60 + noisy) == []
    assert warnings(noisy + [8.0] * 150 + noisy) == []  # a hill that it comes down from
    (line,) = warnings(noisy + [8.0] * 900)
    assert "diverged" in line


def test_hunger_for_data_is_said_once() -> None:
    assert warnings([1.0] * 500, waited=0.4) == [] and warnings([1.0] * 99, waited=0.9) == []
    (line,) = warnings([1.0] * 500, waited=0.6)
    assert "60% of the time" in line and "--prefetch" in line


# -- What a run says of itself ----------------------------------------------------------------------------


def test_lines_say_how_fast_it_goes_and_how_long_it_waits(tmp_path: Path) -> None:
    toy_run(tmp_path, 20)
    header, *lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert header["recipe"]["steps"] == 20 and [line["step"] for line in lines] == [10, 20]
    for line in lines:
        assert 0 < line["data_wait"] < 1 and "mfu" in line
        assert line["tokens"] == pytest.approx(10 * line["speed"], rel=1e-3)
    assert "loss" in lines[0] and "samples" not in lines[0] and "flops" not in lines[0]


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, 40, stop=39)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-0000035"]
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text().replace('"step": 30', '"step": 36') + '{"step": 38, "sec')  # killed while writing
    toy_run(tmp_path, 40)
    steps = [json.loads(line).get("step") for line in log.read_text().splitlines()]
    assert steps == [None, 10, 20, 40]  # 36 is taken again


def test_tensorboard_has_the_scalars_and_the_sheets(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    toy_run(tmp_path, 20)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "norm", "data_wait", "mfu", "speed"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("loss")] == [10, 20]
    assert [event.step for event in found.Images("samples")] == [20]


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("MPS backend out of memory"), torch.OutOfMemoryError("CUDA out of memory"),
])  # fmt: skip
def test_a_sheet_that_memory_does_not_suffice_for_ends_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = toy_run(tmp_path / "whole", 20)

    def sample(self: Negation, model: nn.Module, path: Path) -> None:
        raise error

    monkeypatch.setattr(Negation, "sample", sample)
    without = toy_run(tmp_path / "without", 20)
    assert all(torch.equal(whole[name], without[name]) for name in whole)
    assert re.search(r"no sheet is drawn at step 20: .* memory ran out", capsys.readouterr().err)


def test_without_tensorboard_there_are_no_files_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    toy_run(tmp_path, 10)
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / "log.jsonl").exists()


def test_training_learns(tmp_path: Path) -> None:
    def error(weights: dict[str, torch.Tensor]) -> float:
        model = Toy()
        model.load_state_dict(weights)
        x = torch.randn(64, 16, generator=generator(9, 9))
        return (model(x) + x).square().mean().item()

    assert error(toy_run(tmp_path / "long", 200)) < 0.5 * error(toy_run(tmp_path / "short", 2))


def test_the_rate_warms_up_stays_and_decays() -> None:
    recipe = TrainerConfig(steps=100, batch=1, rate=1.0, warmup=10)
    rates = [recipe.lr_at(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[74] == 1 and rates[99] == pytest.approx(0.04)
    assert recipe.lr_at(50, spent=0.9) == pytest.approx(0.4)  # minutes that run out end a run as steps do
    assert recipe.lr_at(50, spent=1.2) == 0


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vae_training.PRESETS, "nano", TINY_VAE)
    monkeypatch.setattr(vae_training, "CANVASES", [(64, 64)])
    monkeypatch.setattr(vae_training, "CROP", (64, 64))


def test_vae_training_writes_weights_that_load(tiny: None, tmp_path: Path) -> None:
    from sora_cli.files import weights
    from sora_cli.models.sora.vae import from_weights

    path = vae_training.train(options(tmp_path / "vae", steps=2))
    vae = from_weights(*weights.load(path))
    footage = vae_training.world_clip(random.Random(5), 2, 9, CPU)
    latents = vae.encode(footage.read)[:, :, 1:]
    assert latents.mean((0, 2, 3, 4)).abs().max() < 2 and 0.2 < latents.std() < 3


def window(seed: int = 0, size: int = 6) -> LatentCache:
    torch.manual_seed(0)
    return LatentCache(Vae(TINY_VAE).eval(), seed, samples=4, size=size, refresh_rate=1, device=CPU,
                       dtype=torch.float32)  # fmt: skip


def test_blocks_depend_on_their_number_alone() -> None:
    bucket = Bucket(2, 2, 2)
    first, again = window(), window()
    first.block(0, bucket)
    a, b = first.block(5, bucket), again.block(5, bucket)
    assert torch.equal(a.latents, b.latents) and a.captions == b.captions and torch.equal(a.seconds, b.seconds)
    assert not torch.equal(a.latents, first.block(6, bucket).latents)


class Reader(nn.Module):
    """A text tower that counts what it reads, and its tokenizer: a caption's only token is its length."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def encode(self, captions: list[str]) -> torch.Tensor:
        self.count += len(captions)
        return torch.tensor([[len(caption)] for caption in captions])

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        return tokens[..., None].float(), None


def test_captions_are_read_once_until_they_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora_cli.train.frozen.REMEMBERED", 3)
    reader = Reader()
    read = CachedTextEncoder(reader, reader, CPU)  # type: ignore[arg-type]
    assert read(["a", "bb", "a"]).flatten().tolist() == [1, 2, 1] and reader.count == 2
    assert read(["bb", "ccc"]).flatten().tolist() == [2, 3] and reader.count == 3
    assert read(["dddd", "a", "eeeee"]).flatten().tolist() == [4, 1, 5] and reader.count == 5
    assert read(["ccc", "a"]).flatten().tolist() == [3, 1] and reader.count == 6  # "ccc" was forgotten


def test_samples_are_told_when_they_are_pictures_always_and_most_clips() -> None:
    rng = random.Random(0)
    both = ([begin(rng, frames) for _ in range(2000)] for frames in (4, 1))
    clips, pictures = ([(start, told == start) for start, told in drawn] for drawn in both)
    assert all(told for _, told in pictures)
    assert sum(told for _, told in clips) / 2000 == pytest.approx(0.7, abs=0.04)
    for starts in ([start for start, told in clips if told], [start for start, _ in pictures]):
        assert min(starts) >= 0 and 55 < max(starts) < 64
        assert sum(start < 8 for start in starts) / len(starts) == pytest.approx(0.8 + 0.2 * 8 / 63, abs=0.04)


def test_blocks_know_where_their_subjects_are() -> None:
    """Where a chunk leads to its first latent, that one is read with its motion, at the same moment."""
    from sora_cli.world.field import field
    from sora_cli.world.scene import sample_scene

    alone, led = (window().draw(3, Bucket(1, 2, 2, moving)) for moving in (False, True))
    assert alone.first and not led.first and alone.captions == led.captions
    assert torch.equal(alone.seconds, led.seconds) and torch.equal(alone.field, led.field)
    assert torch.equal(alone.latents[:, :4], led.latents[:, :4])  # key frames stand alone
    assert not alone.latents[:, 4:].any() and led.latents[:, 4:].any()
    scene = sample_scene(random.Random(3))
    assert dense(scene) == alone.captions[0]
    known = field([scene], alone.seconds[:1] - scene.begins, 64, 64).flatten(2, 3)[0]
    assert torch.allclose(known, alone.field[0].float(), atol=2e-3)
    clip = next(led.clips())
    assert clip.cover is not None and torch.equal(clip.cover, led.field[0, :, ::3].float().amax(1))


def test_phases_begin_by_steps_or_by_time_and_go_on_as_they_did(tmp_path: Path) -> None:
    bucket = (Bucket(1, 2, 2), 1.0)
    phases = tuple(Phase(start, (bucket,), drop=start) for start in (0.0, 0.5, 0.8))
    path = tmp_path / "phases.json"
    schedule = Schedule(phases, path)
    for pack, share in enumerate((0.0, 0.2, 0.49, 0.51, 0.6, 0.95)):  # the last one after a long pause
        schedule.reached(pack, share)
    assert [schedule.at(pack).start for pack in range(7)] == [0, 0, 0, 0.5, 0.5, 0.8, 0.8]
    again = Schedule(phases, path)
    assert [again.at(pack) for pack in range(7)] == [schedule.at(pack) for pack in range(7)]
    schedule.reached(9, 1.0)
    assert json.loads(path.read_text()) == [0, 3, 5]


def test_packs_leave_the_background_out_first() -> None:
    made = window(size=60)
    made.refresh_rate = 0.5
    schedule = Schedule((Phase(0, ((Bucket(1, 4, 4), 1.0),), drop=0.5, subject=3.0),), None)
    reader = Reader()
    read = CachedTextEncoder(reader, reader, CPU)  # type: ignore[arg-type]
    pack = WorldPacks(made, read, 4, 0, schedule).at(0)
    assert len(pack.clips) == round(4 * BUDGET / 16) and pack.subject == 3.0
    for clip, grid in zip(pack.clips, pack.grids, strict=True):
        assert grid.size == 8 and clip.cover is not None
        there = clip.cover.unfold(1, 2, 2).unfold(2, 2, 2).amax((0, 3, 4)).flatten() > 0.02
        left_out = [n for n in range(16) if n not in grid.keep]
        assert there.sum() > 8 or not there[left_out].any()


def test_a_finished_run_takes_no_more_steps(tmp_path: Path) -> None:
    """The minutes of a run are those of all its starts."""
    run = options(tmp_path / "run", steps=None, minutes=1 / 60)
    counts = []
    for _ in range(2):
        fit(Negation(run, 100_000))
        counts.append(int(checkpoints(run.out)[-1].name.rpartition("-")[2]))
    assert counts[0] == counts[1] > 1


def test_the_window_slides() -> None:
    w = window(size=6)
    assert w.range_at(0) == range(6)
    assert w.range_at(10).stop - w.range_at(9).stop == 1 and len(w.range_at(50)) == 6
    w.refresh_rate = 0.25
    assert [w.range_at(step).stop for step in range(6)] == [6, 7, 7, 7, 7, 8]


def test_sparse_latents_equal_those_of_the_whole_clip() -> None:
    """A latent read with its own chunk alone is that of a longer clip, but for the memory of its past."""
    from sora_cli.train.data.world_packs import encode_at
    from sora_cli.world.scene import Scene

    vae = window().vae
    scene, starts = [Scene("cat", "moving right", "meadow")], torch.tensor([1.0])
    whole = encode_at(vae, scene, starts, (0, 1, 2, 3), 24.0, (64, 64), torch.float32)
    sparse = encode_at(vae, scene, starts, (0, 3), 24.0, (64, 64), torch.float32)
    assert torch.allclose(whole[:, :, 0], sparse[:, :, 0], atol=1e-4)
    assert torch.allclose(whole[:, :4, 3], sparse[:, :4, 1], atol=1e-4)


def test_examples_keep_what_is_known_and_weigh_what_is_made() -> None:
    clip, parts = Clip(torch.randn(6, 5, 4, 4), torch.arange(5.0), "", first=False), (4, 2)
    seen = set()
    for seed in range(60):
        e = example([clip], parts, torch.Generator().manual_seed(seed))
        known = torch.cat([e.cond_mask[0, :, :1].expand(-1, 4), e.cond_mask[0, :, 1:].expand(-1, 2)], 1).T.bool()
        weight, noisy, t = e.weight[0], e.noisy[0], e.t[0]
        assert not weight[known].any() and (weight[~known] >= 1).all()
        if (t[e.cond_mask[0].amin(1).bool()] == 0).all():
            assert torch.equal(noisy[known], clip.latents[known])
        seen.add(tuple(e.order[0].tolist()))
        assert torch.equal(e.order[0] == 0, e.cond_mask[0].amax(1) > 0)
    assert len(seen) > 10


def test_a_frame_alone_has_no_motion_to_learn_and_subjects_count_more() -> None:
    latents, cover = torch.randn(6, 2, 4, 4), torch.zeros(2, 4, 4)
    cover[:, 0, 0] = 0.4
    plain = Clip(latents, torch.arange(2.0), "", first=True, cover=cover)
    one, three = (example([plain], (4, 2), generator(0, 1), n, lambda T: Task(
        torch.zeros(2, T), torch.ones(T).long(), "")) for n in (1.0, 3.0))  # fmt: skip
    assert not one.weight[0, 4:, 0].any() and (one.weight[0, :4, 0] >= 1).all() and (one.weight[0, :, 1] >= 1).all()
    ratio = three.weight[0, :4] / one.weight[0, :4]
    assert (ratio[:, :, :2, :2] == 3).all() and (ratio[:, :, 2:] == 1).all() and (ratio[:, :, :, 2:] == 1).all()


def test_the_dit_learns_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DitConfig(6, 32, 1, 2, 8, 4, 1, (8, 4, 4), 16.0, 8.0)
    torch.manual_seed(0)
    dit, rng = Dit(config), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(dit.parameters(), 1e-2)
    clip, text = Clip(torch.full((6, 1, 4, 4), 0.7), torch.zeros(1), "", first=False), torch.zeros(4, 6, 8)
    learner = Learner(dit, None)
    losses: list[Callable[[], float]] = []
    for _ in range(60):
        loss = dit_training.pack_loss(learner, [example([clip] * 4, (4, 2), rng)], text)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item)
    assert sum(f() for f in losses[-5:]) < 0.1 * sum(f() for f in losses[:5])
    assert flow.weight(torch.tensor(0.0)) == pytest.approx(400)


def packed(shapes: list[tuple[int, int, int]]) -> tuple[list[NoisedSample], torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    clips = [torch.randn(6, *shape, generator=rng) for shape in shapes]
    return ([example([Clip(c, torch.arange(c.shape[1]) / 6, "")], (4, 2), rng) for c in clips],
            torch.randn(len(clips), 5, 8, generator=rng))  # fmt: skip


def test_blocks_that_are_computed_again_have_the_same_gradients(tmp_path: Path) -> None:
    examples, text = packed([(3, 4, 4), (1, 4, 6), (3, 4, 4)])
    found = []
    for again in (False, True):
        dit = drawn(replace(SMALL, depth=2))
        dit_training.prepare_blocks(DitOptions(compiled=False, checkpoint_activations=again), dit)
        dit_training.pack_loss(Learner(dit, None), examples, text)["loss"].backward()
        found.append([p.grad for p in dit.parameters()])
    for plain, other in zip(*found, strict=True):
        assert torch.allclose(plain, other)


@torch.no_grad()
@pytest.mark.parametrize("shapes", [[(3, 12, 20), (1, 16, 12)], [(1, 12, 12)] * 3, [(4, 12, 12)] * 2])
def test_flops_are_those_that_torch_counts(shapes: list[tuple[int, int, int]]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    dit, (examples, text) = drawn(replace(SMALL, width=128, depth=4)), packed(shapes)
    grids = tuple(Grid(T, h // 2, w // 2) for T, h, w in shapes)
    with FlopCounterMode(display=False) as counter:
        dit_training.pack_loss(Learner(dit, None), examples, text)
    told = dit_training.flops_of(dit.config, sum(p.numel() for p in dit.parameters()), grids)
    assert told == pytest.approx(counter.get_total_flops(), rel=0.15)  # a few weights are read once a frame


# -- Growing and distilling -------------------------------------------------------------------------------

SMALL = DitConfig(channels=6, width=32, depth=1, heads=2, text_width=8, text_tokens=4, registers=1,
                  bins=(8, 4, 4), seconds=16.0, bar=8.0)  # fmt: skip


def drawn(config: DitConfig) -> Dit:
    """A transformer whose every path matters."""
    torch.manual_seed(0)
    dit = Dit(config).eval()
    for p in dit.parameters():
        nn.init.normal_(p, std=0.2)
    return dit


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"depth": 3}, {"channels": 10}, {"width": 48, "heads": 3}])
def test_a_grown_transformer_begins_as_the_smaller_one(changes: dict[str, int]) -> None:
    small = drawn(SMALL)
    torch.manual_seed(1)
    large = Dit(replace(SMALL, **changes)).eval()  # type: ignore[arg-type]
    more = large.config.channels - SMALL.channels
    grow.grow_dit(large, small.state_dict(), {"config": json.dumps(asdict(SMALL))}, (4 + more, 2))
    rng = torch.Generator().manual_seed(2)
    video = torch.randn(6, 2, 4, 4, generator=rng)
    wider = torch.cat([video[:4], torch.zeros(more, 2, 4, 4), video[4:]])
    grid = (Grid(2, 2, 2),)
    given = Conditions(torch.rand(2), torch.zeros(2, 2), torch.arange(2.0), torch.ones(2),
                       torch.randn(1, 6, 8, generator=rng), torch.ones(1), torch.zeros(1))  # fmt: skip
    before = unpatchify(small(patchify([video]), grid, given), grid)[0]
    after = unpatchify(large(patchify([wider]), grid, given), grid)[0]
    kept = torch.cat([after[:4], after[4 + more :]])
    assert torch.allclose(kept, before, atol=0.05 if "width" in changes else 1e-5)  # new features are not quite silent
    assert before.abs().max() > 0.5


@torch.no_grad()
def test_a_grown_autoencoder_keeps_its_latents() -> None:
    """Details come beside them, and say nothing to the decoder yet; another painter begins anew."""
    torch.manual_seed(0)
    small, large = Vae(TINY_VAE), Vae(replace(TINY_VAE, space=8, details=4))
    for p in small.parameters():
        nn.init.normal_(p, std=0.1)
    grow.grow_vae(large, small.state_dict(), TINY_VAE)
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before, after = small.moments(video)[0], large.moments(video)[0]
    assert torch.allclose(after[:, [0, 1, 2, 3, 8, 9]], before, atol=1e-5)
    assert after[:, 4:8].any()
    shown, again = small.decode_raw(before)[0], large.decode_raw(after)[0]
    assert torch.allclose(again, shown, atol=1e-5)
    zoomed = Vae(replace(TINY_VAE, space=8, details=4, zoom=2))
    grow.grow_vae(zoomed, large.state_dict(), large.config)
    assert torch.equal(zoomed.moments(video)[0], after) and zoomed.decode_raw(after)[0].shape[-2:] == (64, 64)


def test_details_are_learned_beside_latents_that_stay(tiny: None, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(vae_training, "DETAILS", 4)
    first = from_weights(*weights.load(vae_training.train(options(tmp_path / "vae", steps=2))))
    run = options(tmp_path / "more", steps=3, details=True, init=tmp_path / "vae", zoom=2)
    vae = from_weights(*weights.load(vae_training.train(run)))
    video = vae_training.world_clip(random.Random(5), 2, 9, CPU).read
    before, after = first.encode(video), vae.encode(video)
    assert torch.allclose(after[:, [0, 1, 2, 3, 8, 9]], before, atol=1e-2)  # files are in half precision
    assert vae.config.details == 4 and vae.decode(after).shape[-2:] == (128, 128)
    units = vae_training.units(vae, vae.denormalise(after[:, :, 1:])).flatten()[4:8]
    assert torch.allclose(units, vae.std[4:8], rtol=0.8)  # of other clips


def test_a_painter_that_paints_larger_is_shown_larger_pictures() -> None:
    small, large = (vae_training.world_clip(random.Random(4), 2, 5, CPU, zoom) for zoom in (1, 2))
    assert torch.equal(small.read, large.read) and torch.equal(small.read, small.painted)
    assert [2 * n for n in small.painted.shape[-2:]] == list(large.painted.shape[-2:])
    pooled = nn.functional.avg_pool3d(large.painted, (1, 2, 2))
    assert (pooled - small.painted).abs().mean() < 0.02
    assert set(large.weight.unique().tolist()) == {1.0, vae_training.SUBJECT}
    assert torch.equal(large.weight[..., ::2, ::2], small.weight)


def test_moved_latents_belong_to_moved_pictures() -> None:
    """Latents that are means over cells interpolate exactly where the picture is a ramp."""
    vae = Vae(TINY_VAE)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    video = (2 * y + 3 * x)[None, None, None]

    def means(picture: torch.Tensor) -> torch.Tensor:
        small = nn.functional.avg_pool3d(picture, (1, 8, 8))
        motion = nn.functional.avg_pool3d(picture, (1, 16, 16)).expand(-1, 2, -1, -1, -1)
        return vae_training.latents(small, motion)

    assert torch.equal(vae_training.pictures(vae, means(video))[0], nn.functional.avg_pool3d(video, (1, 8, 8)))
    for seed in range(9):
        z, target = vae_training.move(vae, means(video), video, torch.Generator().manual_seed(seed))
        assert target.shape[-2:] == (48, 64)
        assert torch.allclose(z, means(target), atol=1e-3)


def test_noise_is_as_loud_as_the_part_of_the_latents_that_it_hides() -> None:
    z = torch.cat([torch.randn(8, 4, 2, 8, 8) * torch.tensor([5.0, 1, 1, 1]).view(4, 1, 1, 1),
                   torch.randn(8, 2, 2, 8, 8) / 2], 1)  # fmt: skip
    found = vae_training.channel_std(Vae(TINY_VAE), z + 3).flatten()
    assert torch.allclose(found, torch.tensor([7**0.5] * 4 + [0.5] * 2), rtol=0.1)


def task_of(V: int, T: int) -> distil.Task:
    rng = torch.Generator().manual_seed(3)
    return distil.draw(torch.randn(V, 6, T, 4, 4, generator=rng), torch.arange(T).repeat(V, 1) / 6, (4, 2), rng)


def test_a_distillation_task_keeps_what_is_known_and_steps_no_further_than_clean() -> None:
    task = task_of(64, 4)
    known = task.to_make == 0
    assert known.any() and (task.step[task.step > 0] <= task.t[task.step > 0] + 1e-6).all()
    rng = torch.Generator().manual_seed(3)
    clean = torch.randn(64, 6, 4, 4, 4, generator=rng)
    assert torch.equal(task.noisy[known.expand_as(clean)], clean[known.expand_as(clean)])
    assert 0.3 < float((task.step == 0).float().mean()) < 0.7


@torch.no_grad()
def test_targets_of_distillation_follow_their_definitions() -> None:
    dit, task = drawn(SMALL), task_of(4, 2)
    text = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(4))
    student = distil.Student(dit, task, text)
    one, none = torch.ones(4), torch.zeros(4)
    told, untold = student.clean(task.noisy, task.t, one, none), student.clean(task.noisy, task.t, one, none, 0 * text)
    g = task.guidance.view(-1, 1, 1, 1, 1)
    assert torch.allclose(distil.cfg_target(student), told * g + untold * (1 - g), atol=1e-4)
    # At step size d, one step to the target's point arrives where two half steps do.
    x, half = task.noisy, (task.step / 2).view(-1, 1, 1, 1, 1)
    for t in (task.t, task.t - task.step / 2):
        x = x - half * student.velocity(x, t, task.step / 2)
    t = task.t.view(-1, 1, 1, 1, 1)
    target = distil.shortcut_target(student)
    assert torch.allclose(task.noisy - 2 * half * flow.velocity(task.noisy, target, t), x, atol=1e-4)


def test_a_student_that_is_its_own_teacher_without_guidance_has_nothing_to_learn() -> None:
    dit, task = drawn(SMALL), task_of(4, 2)
    task = replace(task, step=torch.zeros(4), guidance=torch.ones(4))
    found = distil.loss(dit, dit, task, torch.randn(4, 6, 8))
    assert float(found["loss"]) == pytest.approx(0, abs=1e-8)


def test_blocks_stay_as_long_as_they_are_in_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order they come in: another process may have drawn the ones in between."""
    drawn: list[int] = []
    monkeypatch.setattr(LatentCache, "draw", lambda self, number, bucket: drawn.append(number) or number)
    w = window(size=4)
    for number in (0, 3, 2, 1, 4, 3, 2, 1, 5, 2):  # 1 came last of the first four, and goes before 2 and 3
        w.block(number, Bucket(1, 2, 2))
    assert drawn == [0, 3, 2, 1, 4, 5] and sorted(w.blocks) == [2, 3, 4, 5]
    w.block(1, Bucket(1, 2, 2))  # of a process that lags behind
    assert sorted(w.blocks) == [2, 3, 4, 5]


def test_blocks_on_disk_are_the_blocks_that_were_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vae = Vae(TINY_VAE)

    def window() -> LatentCache:
        return LatentCache(vae, 1, 2, 2, 1, CPU, torch.float32, tmp_path)

    first = window()
    drawn_ = [first.block(n, Bucket(1, 1, 2)) for n in range(3)]
    again = window()
    monkeypatch.setattr(again, "draw", lambda number, bucket: pytest.fail("it lies on disk"))
    kept = [again.block(n, Bucket(1, 1, 2)) for n in (1, 2)]
    for one, other in zip(drawn_[1:], kept, strict=True):
        assert torch.equal(one.latents, other.latents) and torch.equal(one.seconds, other.seconds)
        assert one.captions == other.captions
    assert not first.path(0).exists()  # it has left the window
    moving = Bucket(1, 1, 2, moving=True)
    assert kept[0].fits(Bucket(1, 1, 2)) and not kept[0].fits(moving) and not kept[0].fits(Bucket(1, 2, 2))
    assert window().draw(1, moving).fits(moving)
    tensors, _ = weights.load(first.path(2))
    other = {"other": torch.zeros(1)}
    for damaged, metadata in ((other, {}), (tensors, {}), (tensors, {"captions": "[", "first": "true"})):
        weights.save(first.path(2), damaged, metadata)
        assert torch.equal(window().block(2, Bucket(1, 1, 2)).latents, drawn_[2].latents)


def test_coarse_latents_and_their_details_fit_together() -> None:
    clip = Clip(torch.arange(10.0).view(10, 1, 1, 1), torch.zeros(1), "")
    pack = Pack([clip], (), torch.zeros(1, 2, 3), generator(0, 0))
    coarse = dit_training.without_details(pack, (4, 4, 2)).clips[0].latents
    assert coarse.flatten().tolist() == [0, 1, 2, 3, 8, 9]
    again = dit_training.with_details(coarse[None], (4, 4, 2))
    assert again.flatten().tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 8, 9]
    assert torch.equal(dit_training.with_details(again, (4, 4, 2)), again)


def test_the_averages_of_a_run_can_be_read_without_its_network(tmp_path: Path) -> None:
    trained = toy_run(tmp_path, 10)
    read = checkpoint.averages(tmp_path)
    assert read.keys() == trained.keys() and all(torch.equal(read[name], trained[name]) for name in read)
