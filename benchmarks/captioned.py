"""Whether a transformer learns as much from the captioner's captions as from true ones.

    python benchmarks/captioned.py                                    # a quarter of an hour on one core
    python benchmarks/captioned.py --clips 600                        # what docs/lab.md has
    python benchmarks/captioned.py --captioner ./runs/captioner --scenes 3000 --steps 1200 --json
    python benchmarks/captioned.py --anew --steps 5000                # what reads text has all to learn

Scenes are drawn, and captioned from their pictures by the captioner. Two transformers begin from the same weights and
learn the same latents in the same order, one with the scenes' own captions, one with the captioner's. Then both make
the same held-out prompts, from the same seeds, for the judge.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bar
import torch
from learning import learn
from measuring import grid, note, parser, show
from rich.table import Table
from torch import Tensor

from sora_cli import registry
from sora_cli.captioning.pocket import Own
from sora_cli.evaluate import clips
from sora_cli.evaluate import measure as exam
from sora_cli.files import weights
from sora_cli.models.sora import evaluator
from sora_cli.models.sora.captioner import FRAMES, HEIGHT, RATE, WIDTH
from sora_cli.models.sora.dit import Dit, config_from
from sora_cli.models.sora.vae import CHUNK
from sora_cli.placement.device import pick_dtype
from sora_cli.train.align import Learner
from sora_cli.train.data.noising import examples_of
from sora_cli.train.data.packing import Clip, pack_of
from sora_cli.train.data.tasks import sample_strides
from sora_cli.train.data.world_packs import TOKEN, Bucket, encode_at
from sora_cli.train.export import export
from sora_cli.train.frozen import CachedTextEncoder, Frozen
from sora_cli.train.options import ExportOptions
from sora_cli.train.recipes import dit as recipe
from sora_cli.train.recipes.captioner import marks, shares
from sora_cli.train.trainer.config import TrainerConfig, generator
from sora_cli.world.captions import dense
from sora_cli.world.render import render
from sora_cli.world.scene import Scene, sample_scene

CPU = torch.device("cpu")
LONGEST = 16  # latents of the clips that samples are subsets of
SHAPES = ((Bucket(1, 6, 10), 28), (Bucket(4, 6, 6), 12))  # of packs, which take turns, and how many samples each has
WHAT = ("subject", "action", "place", "all")

Samples = list[tuple[Tensor, Tensor]]  # of one shape, one a scene: latents, and the seconds of their frames


def captions(own: Own, scenes: Sequence[Scene]) -> list[str]:
    """What the captioner says of the first seconds of each scene."""
    seen = torch.arange(FRAMES) / RATE
    videos = (render([scene], seen[None], HEIGHT, WIDTH)[0] for scene in scenes)
    frames = ((255 * video).round().byte().permute(0, 2, 3, 1).contiguous().numpy() for video in videos)
    return [own.caption(list(each)).text for each in frames]


def latents(vae: recipe.Vae, scenes: Sequence[Scene], bucket: Bucket, rng: random.Random) -> Samples:
    """One sample of each scene in one shape."""
    torch_rng, made = torch.Generator().manual_seed(rng.getrandbits(40)), Samples()
    size, dtype = (bucket.height * TOKEN, bucket.width * TOKEN), pick_dtype("auto", CPU)
    for start in range(0, len(scenes), 8):
        some = scenes[start : start + 8]
        index = sample_strides(torch_rng, bucket.frames, LONGEST) if bucket.frames > 1 else (0,)
        starts = torch.tensor([0.0 if bucket.frames > 1 else rng.uniform(0, 4) for _ in some])
        seconds = starts[:, None] + torch.tensor(index) * CHUNK / clips.FPS
        made += zip(encode_at(vae, list(some), starts, index, clips.FPS, size, dtype).half(), seconds, strict=True)
    return made


def begin(tensors: dict[str, Tensor], header: dict[str, str], anew: bool) -> Dit:
    """The transformer; where it begins `anew`, what reads text is drawn, and knows nothing."""
    torch.manual_seed(0)
    dit = Dit(config_from(header))
    drawn = {name: value.clone() for name, value in dit.state_dict().items() if anew and name.startswith("text_")}
    dit.load_state_dict({**tensors, **drawn})
    return dit


def teach(dit: Dit, samples: Sequence[Samples], told: Sequence[str], steps: int,
          read: CachedTextEncoder, parts: tuple[int, int]) -> None:  # fmt: skip
    """Let it learn from so many packs, of scenes with these captions."""

    def loss(step: int) -> Tensor:
        if step and step % 100 == 0:
            note(f"{step} of {steps} steps")
        which, (_, count) = samples[step % len(SHAPES)], SHAPES[step % len(SHAPES)]
        numbers = random.Random(step).sample(range(len(told)), count)
        clips = [Clip(which[n][0].float(), which[n][1], told[n]) for n in numbers]
        pack = pack_of(clips, read([told[n] for n in numbers]), generator(0, step))
        examples = examples_of(pack, parts)
        with torch.autocast("cpu", pick_dtype("auto", CPU)):
            return recipe.pack_loss(Learner(dit, None), examples, pack.text)["loss"]

    learn(dit, TrainerConfig(steps=steps, batch=1, rate=1e-3, warmup=20, average=0.99), loss)


def judged(folder: Path, scenes: Sequence[Scene]) -> dict[str, float]:
    """Adherence of the model in a folder to held-out prompts."""
    bench = bar.Bench(str(folder), len(scenes), 0)
    videos = (bar.glimpsed(bench.engine, bench.shot(scene, number)) for number, scene in enumerate(scenes))
    found = exam.adherence([evaluator.name(bar.judge(), video, clips.FPS) for video in videos], scenes)
    return {kind: share["mean"] for kind, share in found.items()}


def arm(asked: argparse.Namespace, told: Sequence[str], samples: Sequence[Samples],
        read: CachedTextEncoder, parts: tuple[int, int]) -> dict[str, float]:  # fmt: skip
    """Learn from one kind of caption, and be judged."""
    tensors, header = registry.load_model_files(registry.entry(asked.model), "dit")
    dit = begin(tensors, header, asked.anew)
    teach(dit, samples, told, asked.steps, read, parts)
    with tempfile.TemporaryDirectory() as name:
        run, out = Path(name) / "run", Path(name) / "model"
        run.mkdir()
        plain = {key: value for key, value in header.items() if key != "distilled"}
        weights.save_part(run, "dit", {k: v.bfloat16() for k, v in dit.state_dict().items()}, plain)
        export(ExportOptions(init=run, out=out))
        return judged(out, clips.held_out(asked.clips, 0))


def report(found: dict[str, Any]) -> Table:
    table = grid("held-out prompts, after learning from", *("captions", *WHAT))
    for name in ("true", "captioner"):
        table.add_row(name, *(f"{found[name][what]:.0%}" for what in WHAT))
    said = found["right"]
    table.add_row("the captioner itself is right in", *(f"{said[what]:.0%}" for what in WHAT[:3]), "")
    return table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--captioner", default="pocket", help="pocket, or a folder of `train captioner`")
    options.add_argument("--scenes", type=int, default=1600)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--clips", type=int, default=64)
    options.add_argument("--anew", action="store_true", help="start from weights that cannot read")
    options.add_argument("--only", choices=("true", "captioner"), help="one of the two, to run both side by side")
    asked = options.parse_args()
    rng = random.Random("captioned")
    scenes = [sample_scene(rng) for _ in range(asked.scenes)]
    note("captions ...")
    told = {"true": [dense(scene) for scene in scenes], "captioner": captions(Own.load(asked.captioner, "cpu"), scenes)}
    right = shares(marks(text, scene) for text, scene in zip(told["captioner"], scenes, strict=True))
    note("latents ...")
    frozen = Frozen.load(None, None, CPU)
    vae, read = frozen.vae, frozen.encoder
    samples = [latents(vae, scenes, bucket, rng) for bucket, _ in SHAPES]
    parts = (vae.config.space, vae.config.time)
    found = {name: arm(asked, text, samples, read, parts) for name, text in told.items() if asked.only in (None, name)}
    show({**found, "right": right}, [report({**found, "right": right})] if len(found) > 1 else [], asked.json)


if __name__ == "__main__":
    main()
