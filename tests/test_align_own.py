"""A middle block aligned with the features of an encoder, where no renderer knows the geometry of footage."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_align import CONFIG
from test_clip_training import SAID, TINY, dataset, options
from test_engine import tiny_part
from test_train_own import CPU, TINY_CLIP, folder, refused, run  # noqa: F401
from torch import nn

from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.media import probe
from sora_cli.models.sora.dit import Dit
from sora_cli.models.sora.patches import Grid, grid_of
from sora_cli.models.sora.vae import from_weights as vae_from_weights
from sora_cli.train.align import Features, Learner
from sora_cli.train.data.noising import example
from sora_cli.train.data.packing import Clip, Packs
from sora_cli.train.recipes import clip as clip_training
from sora_cli.train.recipes import dit as dit_training
from sora_cli.train.recipes import tower
from sora_cli.train.recipes.tower import Pretrained, TowerConfig, VideoTower


@pytest.fixture
def eye() -> VideoTower:
    """A tower of random weights, which has seen noise."""
    torch.manual_seed(0)
    made = VideoTower(TowerConfig(seen=3, channels=(8, 5, 4), embed_dim=4))
    for norm in made.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean over all that was seen
            nn.init.normal_(norm.weight)
    made(torch.randn(64, 2, 3, 12, 20))
    return made.eval().requires_grad_(False)


def test_every_other_feature_is_what_the_tower_itself_makes(eye: VideoTower) -> None:
    """But for the gains that follow, and what comes after."""
    video = torch.randn(64, 2, 3, 12, 20)
    dense = eye.dense(video)
    assert dense.shape == (64, 5, 6, 10)
    kept = dense[:, :, ::2, ::2]
    assert kept.mean((0, 2, 3)).abs().max() < 0.1 and (kept.std((0, 2, 3)) - 1).abs().max() < 0.1
    norm = eye.stages[1][1]
    again = F.gelu(kept * norm.weight[:, None, None] + norm.bias[:, None, None])
    assert torch.allclose(again, eye.stages[:2](video.flatten(1, 2)), atol=1e-5)


def test_frames_are_seen_with_what_follows_and_told_by_the_patch(eye: VideoTower) -> None:
    latents, seconds = torch.randn(3, 7, 24, 16), torch.arange(7) / 6
    told = eye.look(latents, seconds, [0, 5])
    assert told.shape == (2, 5, 12, 8)
    pair = torch.stack([latents[:, [0, 3]], latents[:, [5, 6]]])  # half a second later, or the last
    small = F.interpolate(pair.transpose(1, 2).flatten(0, 1), (12, 20), mode="area").unflatten(0, (2, 2))
    assert torch.allclose(told, F.interpolate(eye.dense(small), (12, 8), mode="bilinear"), atol=1e-5)
    still = eye.look(latents[:, :1, :2, :4], torch.zeros(1), [0])
    assert still.shape == (1, 5, 1, 2)


class One:
    """A dataset of one clip."""

    shapes = ((5, 4, 6),)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        return torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5) / 6, "a clip"

    def features(self, i: int, text: str | None = None) -> None:
        return None


def packs(eye: VideoTower, drop: float = 0.0) -> Packs:
    return Packs(One(), lambda captions: torch.randn(len(captions), 6, 8), CONFIG.conditions, 512, 0, drop, encoder=eye)


def test_packs_carry_the_features_of_the_frames_that_they_have(eye: VideoTower) -> None:
    latents, seconds, _ = One()[0]
    whole = eye.look(latents, seconds, range(5))
    for clip in (clip for number in range(20) for clip in packs(eye).at(number).clips):
        chosen = [int((latents == one[:, None]).all(3).all(2).all(0).nonzero()) for one in clip.latents.unbind(1)]
        assert clip.aim is not None and torch.allclose(clip.aim, whole[chosen], atol=1e-5)


def loss_of(learner: Learner, clips: list[Clip], grids: tuple[Grid, ...]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    examples = [example([clip], (2, 1), rng) for clip in clips]
    return dit_training.pack_loss(learner, examples, torch.zeros(len(clips), 6, 8), grids)


def test_what_is_told_is_held_to_the_patches_that_are_kept(eye: VideoTower) -> None:
    class Perfect(Learner):
        """Tells what is known."""

        def forward(self, patches, grids, given):  # type: ignore[no-untyped-def]
            return patches, self.right

    learner = Perfect(Dit(CONFIG), Features(5))
    latents, seconds, caption = One()[0]
    aim = eye.look(latents, seconds, range(5))
    clips, grids = [Clip(latents, seconds, caption, aim=aim)] * 2, (Grid(5, 2, 3, (1, 5)), grid_of(latents))
    flat = aim.flatten(2).transpose(1, 2)
    learner.right = torch.cat([flat[:, [1, 5]].flatten(0, 1), flat.flatten(0, 1)])
    assert float(loss_of(learner, clips, grids)["aim"]) == pytest.approx(0, abs=1e-6)
    learner.right = learner.right.roll(1, 0)
    assert float(loss_of(learner, clips, grids)["aim"]) > 0.1


def test_the_head_learns_and_reaches_the_blocks_up_to_the_middle_alone(eye: VideoTower) -> None:
    torch.manual_seed(0)
    learner = Learner(Dit(CONFIG), Features(eye.numbers))
    clips = packs(eye).at(0).clips
    grids = tuple(grid_of(clip.latents) for clip in clips)
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    seen = []
    while len(seen) < 120 and not (seen and seen[-1] < 0.3):
        losses = loss_of(learner, clips, grids)
        seen.append(float(losses["aim"]))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert seen[0] > 0.8 and seen[-1] < 0.3
    learner.zero_grad(set_to_none=True)
    _, told = learner(torch.randn(6, 12), (Grid(1, 2, 3),), given(1))
    told.sum().backward()
    assert [block.mlp.out.weight.grad is not None for block in learner.dit.blocks] == [True, True, True, False]


def given(frames: int) -> dit_training.Conditions:
    return dit_training.Conditions(torch.rand(frames), torch.zeros(frames, 2), torch.zeros(frames), torch.ones(frames),
                                   torch.randn(1, 6, 8), torch.ones(1), torch.zeros(1))  # fmt: skip


# ---- the commands -----------------------------------------------------------------------------------------


def test_the_tower_lies_beside_the_words_and_says_what_it_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(clip_training.PRESETS, "nano", TINY)
    words = clip_training.train(options(tmp_path / "own", steps=2, data=dataset(tmp_path / "data", SAID)))
    path = words.with_name("video.safetensors")
    found = tower.load(path, "v")
    assert found.config == TowerConfig(4, TINY.sizes[-1], TINY.sizes[-2]) and not found.training
    told = json.loads(weights.read_header(path).metadata["training"])
    assert told["data"] == "data" and told["recipe"]["steps"] == 2
    with pytest.raises(SoraError, match="trained on the latents of another VAE; `sora-cli train clip`"):
        tower.load(path, "another")
    words = clip_training.train(options(tmp_path / "world", steps=1, batch=2))
    with pytest.raises(SoraError, match="trained on pictures of the rendered world"):
        tower.load(words.with_name("video.safetensors"), "v")


def test_footage_is_aligned_with_its_tower(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What is exported has no head, and makes videos; a dropped patch is not asked for."""
    (folder / "1.txt").write_text("a dog")
    monkeypatch.setitem(clip_training.PRESETS, "nano", TINY_CLIP)
    run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    run("train", "clip", "--data", "dataset", "--steps", "2", "--out", "runs/words", *CPU)
    run("train", "dit", "--data", "dataset", "--text", "runs/words/text.safetensors", "--align", "clip", "--steps", "2",
        "--batch", "2", "--drop-tokens", "0.5", "--eager", "--out", "runs/dit", *CPU)  # fmt: skip
    lines = [json.loads(line) for line in Path("runs/dit/log.jsonl").read_text().splitlines()]
    assert all(0 < line["aim"] < 2 for line in lines if "loss" in line)
    assert 'holds another training run: aim was "clip" and is now "off"; --fresh starts over' in refused(
        "train", "dit", "--data", "dataset", "--text", "runs/words", "--steps", "2", "--batch", "2",
        "--drop-tokens", "0.5", "--eager", "--out", "runs/dit", *CPU)  # fmt: skip
    tensors, metadata = weights.load_part("runs/dit", "dit")
    assert not any(name.startswith(("head", "dit.")) for name in tensors)
    assert json.loads(metadata["training"])["align"] == "clip"
    run("train", "export", "--init", "runs/dit", "--text", "runs/words", "--out", "mine")
    run("generate", "a dog", "--model", "./mine", "--frames", "5", "--res", "64x64", "--steps", "1", "-o", "a.mp4",
        "--device", "cpu", "--quiet")  # fmt: skip
    assert probe(Path("a.mp4")).frames == 5


def test_what_cannot_be_told_is_refused_in_one_line(folder: Path) -> None:  # noqa: F811
    run("data", "build", "clips", "-o", "dataset", "--size", "64x64", *CPU)
    own, told = ("train", "dit", "--data", "dataset", "--align"), []
    told.append(refused(*own, "geometry"))
    assert told[-1] == "--align geometry needs the rendered world; for a dataset, use --align clip or off"
    for words in ([], ["--text", "clips"]):
        told.append(refused(*own, "clip", *words))
        assert "the video tower that `train clip --data DATASET` writes; give its run" in told[-1]
    told += [refused("train", "dit", "--align", "clip"), refused(*own, "off-centre"), refused(*own, "ViT-X:y"),
             refused("train", "dit", "--align", "geometry", "--distil", "--init", "clips"),
             refused(*own, "ViT-B-32:nobodys")]  # fmt: skip
    for said, part in zip(told[3:], ("needs a dataset", "unknown --align 'off-centre'", "open_clip has no ViT-X",
                                     "leave out --align", "its weights: openai"), strict=True):
        assert part in said
    assert not any("\n" in said for said in told) and not Path("runs").exists()


def test_a_pretrained_tower_looks_at_pictures(tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": 2, "width": 12, "head_width": 4, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 10, "width": 8, "heads": 2, "layers": 1}
    (tmp_path / "tiny-vit.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    import open_clip

    open_clip.add_model_config(tmp_path / "tiny-vit.json")
    torch.manual_seed(0)
    network = open_clip.create_model("tiny-vit").eval()
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    vae = vae_from_weights(*tiny_part("tiny", "vae"))
    eye = Pretrained(f"tiny-vit:{tmp_path / 'vit.safetensors'}", vae)
    assert eye.numbers == 12
    latents = torch.randn(6, 3, 8, 4)
    told = eye.look(latents, torch.zeros(3), [0, 2])
    assert told.shape == (2, 12, 4, 2)
    seen = []
    network.visual.ln_post.register_forward_hook(lambda module, given, made: seen.append(made))
    picture = F.interpolate(vae.decode(latents[None, :, 2:3])[:, :, 0], (32, 32), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(getattr(network.visual, name))[:, None, None] for name in ("image_mean", "image_std"))
    network.encode_image((picture / 2 + 0.5 - mean) / std)
    tokens = seen[0][:, 1:] if seen[0].ndim == 3 else None
    assert tokens is not None
    right = F.interpolate(tokens.transpose(1, 2).unflatten(2, (4, 4)), (4, 2), mode="bilinear")
    assert torch.allclose(told[1:], right, atol=1e-4)
