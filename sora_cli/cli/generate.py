"""`sora-cli generate PROMPT`: a prompt in, an MP4 out."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sora_cli import geometry, registry
from sora_cli.cli import models, options, seeds
from sora_cli.cli.describing import shot_in
from sora_cli.cli.dry_run import show_plan
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.filming import Order
from sora_cli.cli.jobs import Job
from sora_cli.cli.options import Compute, Decoding, Keeping, Sampling, Showing, flattened
from sora_cli.cli.outputs import output_names
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.prompts.grammar import reseeded
from sora_cli.registry import Entry, lora
from sora_cli.shot import FITS, LONGEST_SECONDS, Anchor, Cue, Shot, check_prompt, check_range

PLAIN = ("negative", "fps", "steps", "plan", "fit")  # options that are fields of a shot
SUITED = ("model", "negative", "steps", "guidance", "guidance_low", "plan", "loras")  # of which each model has its own


@flattened
def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help='What to show, for example "a cat surfing".')] = "",
    seconds: Annotated[
        float | None, typer.Option(help="Length in seconds.", show_default="about 5, as suits the model")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames; 1 makes an image.")] = None,
    res: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Width and height in pixels, both even.", show_default=options.SUITED),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second, 1 to 120.", show_default=options.SUITED)] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE@TIME", help="Place an image or clip: start.png@0, mid.mp4@2.5s, end.png@-1."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="FILE", help="First image or clip; short for --anchor FILE@0.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="FILE", help="Last image or clip; short for --anchor FILE@-1.")
    ] = None,
    fit: Annotated[
        str, typer.Option(help=f"How to fit an anchor of another aspect ratio: {', '.join(FITS)}.")
    ] = "cover",
    prompt_at: Annotated[
        list[str] | None,
        typer.Option(metavar="TIME=PROMPT", help='Change the prompt at a time: 8s="the cat falls off".'),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=1000, help="Number of videos, with seeds that count up.")
    ] = 1,
    plan: options.PlanOption = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Repeat the shot stored in FILE; other options change it."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Output file; {prompt}, {seed} and {n} are filled in. - is y4m on stdout."),
    ] = None,
    dry_run: options.DryRunOption = False,
    *,
    sampling: Sampling,
    compute: Decoding,
    keeping: Keeping,
    showing: Showing,
) -> list[Job]:
    """Make a video from a prompt."""
    if count > 1 and keeping.sheet:
        raise SoraError("--sheet draws one video; for several, `sora-cli batch --sheet` draws a frame of each")
    said = given(context)
    shot, entry = shot_of(context.params | {"seed": seeds.number(sampling.seed)}, said, source)
    expansion = Expansion.asked(sampling.expand, sampling.expand_model, entry)
    shots = [reseeded(shot, shot.seed + n) for n in range(count)]
    order = Order(shots, entry, expansion, sampling.seed, tuple(option_notes(shot, source, said)))
    jobs = [job(order, n, name, compute, keeping, showing, said)
            for n, name in enumerate(output_names(output, shots))]  # fmt: skip
    return show_plan(order, jobs) if dry_run else jobs


def job(order: Order, number: int, name: str, compute: Compute, keeping: Keeping, showing: Showing,
        said: Collection[str] = ()) -> Job:  # fmt: skip
    """One video of an order, which goes to a file of this name; `said` are the options that were given."""
    shot = order.shots[number]
    asked = {"verb": "generate", "shot": shot.to_dict(), "expand": str(order.expansion), **compute.asked,
             **models.weights_of(order.entry)}  # fmt: skip
    one = shot.frames == 1
    files = *(anchor.path for anchor in shot.anchors), *(str(lora.file_of(one)) for one in shot.loras)
    target = Target(name=name, **vars(keeping), sized=one or "res" in said, timed=one or "fps" in said,
                    asked=asked, sources=files)  # fmt: skip
    return order.job(number, target, compute, showing)


def given(context: typer.Context) -> set[str]:
    """The names of the options that were given on the command line."""
    return {name for name in context.params if "COMMANDLINE" in str(context.get_parameter_source(name))}


def shot_of(options: dict[str, Any], given: set[str], source: Path | None) -> tuple[Shot, Entry]:
    """The shot that the options describe, or that of `source` with what is given changed; and its model."""
    stored = remade(source, given) if source else None
    entry = registry.entry(stored.model if stored and "model" not in given else options["model"])
    default = models.default_shot(entry)
    base = stored or default
    if base.model != default.model:  # another model has other settings
        base = replace(base, **{name: getattr(default, name) for name in SUITED})
    if "seed" in given:
        base = reseeded(base, options["seed"])
    wanted = {name: options[name] for name in (*PLAIN, "prompt") if name in given}
    wanted |= models.guidance_of(options["guidance"])
    if "res" in given:
        wanted["width"], wanted["height"] = geometry.parse_res(options["res"])
    fps = wanted.get("fps", base.fps)
    if given & {"seconds", "frames"}:
        wanted["frames"] = frame_count(options["seconds"], options["frames"], fps)
    elif "fps" in given:
        wanted["frames"] = models.frames_at(fps, base, entry.usage)
    if given & {"anchor", "image", "end"}:
        wanted["anchors"] = anchors_of(options)
    if given & {"prompt", "prompt_at", "model", "expand", "expand_model"}:
        wanted["captions"] = ()
    if "lora" in given:
        wanted["loras"] = models.loras_of(options["lora"])
    if "prompt_at" in given:
        wanted["cues"] = tuple(Cue.parse(text) for text in options["prompt_at"] or ())
    shot = replace(base, **wanted)
    if not shot.anchors:
        check_prompt(shot.prompt)
    return models.fitting(shot, entry), entry


def remade(source: Path, given: set[str]) -> Shot:
    """The shot stored in a file. The file may be untrusted, so its model must be registered here already."""
    shot = shot_in(source)
    if "model" not in given and shot.model not in registry.names():
        raise SoraError(f"{source} was made with {shot.model}, which is not registered here; give --model {shot.model} "
                        "to use it")  # fmt: skip
    return shot


def option_notes(shot: Shot, source: Path | None, given: set[str]) -> Iterator[str]:
    """Notes on the local files that a record, which may be untrusted, has us read, and on options without effect."""
    named = [anchor.path for anchor in shot.anchors] if not given & {"anchor", "image", "end"} else []
    named += [one.path for one in shot.loras] if "lora" not in given else []
    if source and named:
        yield f"{source} refers to files on this machine, which are read: {', '.join(named)}"
    if "fit" in given and not shot.anchors:
        yield "--fit does nothing without an --image, --end or --anchor"


def anchors_of(options: dict[str, Any]) -> tuple[Anchor, ...]:
    ends = ((options["image"], "0"), (options["end"], "-1"))
    short = [Anchor(path, at) for path, at in ends if path is not None]
    return (*short, *(Anchor.parse(text) for text in options["anchor"] or ()))


def frame_count(seconds: float | None, frames: int | None, fps: float) -> int:
    """Frames from whichever of the two was given; SoraError for both, or for nonsense."""
    if seconds is not None and frames is not None:
        raise SoraError("--seconds and --frames both say how long the video is; give one of them")
    if frames is not None:
        return frames
    assert seconds is not None
    if not 0 < seconds <= LONGEST_SECONDS:
        raise SoraError(f"--seconds is {seconds:g}; it must be above 0 and at most {LONGEST_SECONDS:g}")
    check_range("fps", fps, 1, 120)
    return geometry.frames_for(seconds, fps)
