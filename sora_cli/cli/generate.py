"""`sora-cli generate PROMPT`: a prompt in, an MP4 out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sora_cli import geometry, media, registry
from sora_cli.cli import expanding, models, options, seeds
from sora_cli.cli.describing import shot_in
from sora_cli.cli.expanding import Expansion
from sora_cli.cli.jobs import Job, Networks, cost_of
from sora_cli.cli.making import Making, format_of, header_of, keep_latents
from sora_cli.cli.options import Compute, Decoding, Keeping, Sampling, Showing, flattened
from sora_cli.cli.outputs import output_names, room_of
from sora_cli.cli.screen import Screen
from sora_cli.cli.target import Target
from sora_cli.errors import SoraError
from sora_cli.generation import anchors
from sora_cli.generation.plan import Given, Plan, check_given, made, plan
from sora_cli.media import blend
from sora_cli.registry import Entry, lora
from sora_cli.shot import FITS, LONGEST_SECONDS, Anchor, Cue, Shot, check_prompt, check_range

if TYPE_CHECKING:
    import numpy as np

    from sora_cli.generation.engine import Generation
    from sora_cli.placement.estimate import Estimate
    from sora_cli.sampling.planner import Window

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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the time and memory it would take, and stop.")
    ] = False,
    *,
    sampling: Sampling,
    compute: Decoding,
    keeping: Keeping,
    showing: Showing,
) -> list[Job]:
    """Make a video from a prompt."""
    said = given(context)
    shot, entry = asked(context.params | {"seed": seeds.number(sampling.seed)}, said, source)
    expansion = Expansion.asked(sampling.expand, sampling.expand_model, entry)
    shots = [expanding.reseeded(shot, shot.seed + n) for n in range(count)]
    order = Order(shots, entry, expansion, sampling.seed, frozenset(said), borrowed(shot, source, said))
    jobs = [job(order, n, name, compute, keeping, showing) for n, name in enumerate(output_names(output, shots))]
    if dry_run:
        show_plan(order, jobs, compute, keeping, showing)
    return [] if dry_run else jobs


@dataclass
class Order:
    """Videos that differ only in their seeds, with everything that is computed once for all of them."""

    shots: list[Shot]
    entry: Entry
    expansion: Expansion
    seed: str
    said: frozenset[str] = frozenset()  # the options that were given
    borrowed: str = ""  # what a record makes us read
    captioned_shots: list[Shot] = field(default_factory=list)

    @property
    def first(self) -> Shot:
        return self.shots[0]

    @cached_property
    def made(self) -> Shot:
        """The first shot at the frame rate that its model makes, which may differ from the output's."""
        return made(self.first, self.entry)

    @cached_property
    def placed(self) -> list[anchors.Placed]:
        return anchors.place(self.made)

    @cached_property
    def retiming(self) -> media.Retiming | None:
        """The conversion to the output's frame rate; None if the model makes that rate."""
        if self.made.fps == self.first.fps:
            return None
        starts = {p.path: p.start for p in self.placed if p.count == 1}
        pins = [(geometry.parse_address(one.at, self.first.fps, self.first.frames), starts[one.path])
                for one in self.first.anchors if one.path in starts]  # fmt: skip
        return media.Retiming.between(self.made.fps, self.first.fps, self.first.frames, pins=tuple(sorted(pins)))

    def plan(self, shot: Shot) -> Plan:
        """The plan of a shot with the anchors of the first."""
        return plan(shot, self.entry, [Given(one.start, one.count) for one in self.placed])

    def cost(self, compute: Compute) -> "Estimate":
        """The cost of one of the videos."""
        return cost_of(self.made, self.entry, compute, self.placed, retiming=self.retiming)

    def captioned(self, screen: Screen) -> list[Shot]:
        """The shots with their captions, for which an LLM is asked once."""
        if not self.captioned_shots:
            seeds.announce(self.seed, self.first.seed, screen)
            for note in self.given():
                screen.note(note)
            around = [expanding.described(anchor, self.first) for anchor in self.first.anchors]
            self.captioned_shots = self.expansion.captioned(self.shots, screen, around)
        return self.captioned_shots

    def given(self) -> Iterator[str]:
        """Notes on the given files."""
        yield from filter(None, [self.borrowed])
        if "fit" in self.said and not self.first.anchors:
            yield "--fit does nothing without an --image, --end or --anchor"
        yield from (f"{anchor.path}: {note}" for anchor in self.placed for note in anchor.notes)

    def notes(self) -> Iterator[str]:
        """The notes that a run would print, as far as they need neither an LLM nor weights."""
        from sora_cli.pipelines import prompt_notes
        from sora_cli.prompts import grammar

        shot = self.first
        if self.entry.usage.grammar and not shot.captions and isinstance(self.expansion.how, str):
            shot = replace(shot, captions=tuple(grammar.captions_of(shot, self.expansion.how == expanding.GRAMMAR)))
        yield from self.given()
        yield from prompt_notes.notes(self.entry, shot)
        yield from map(lora.note, shot.loras)
        yield from self.plan(made(shot, self.entry)).notes()


def job(order: Order, number: int, name: str, compute: Compute, keeping: Keeping, showing: Showing) -> Job:
    """One video of an order, which goes to a file of this name."""
    shot = order.shots[number]
    asked = {"verb": "generate", "shot": shot.to_dict(), "expand": str(order.expansion), **compute.drafted,
             **models.weights_of(order.entry)}  # fmt: skip
    one = shot.frames == 1
    target = Target(name=name, **vars(keeping), sized=one or "res" in order.said, timed=one or "fps" in order.said,
                    asked=asked, sources=sources(shot))  # fmt: skip
    return Job(
        target, order.entry, compute, showing,
        partial(check, shot, order), partial(make, order, number, compute), shot.loras, room=room_of(shot),
        cost=partial(order.cost, compute),
    )  # fmt: skip


# ---- what was asked ---------------------------------------------------------------------------------------


def given(context: typer.Context) -> set[str]:
    """The names of the options that were given on the command line."""
    return {name for name in context.params if "COMMANDLINE" in str(context.get_parameter_source(name))}


def asked(options: dict[str, Any], given: set[str], source: Path | None) -> tuple[Shot, Entry]:
    """The shot that the options describe, or that of `source` with what is given changed; and its model."""
    stored = remade(source, given) if source else None
    entry = registry.entry(stored.model if stored and "model" not in given else options["model"])
    usual = models.usual(entry)
    base = stored or usual
    if base.model != usual.model:  # another model has other settings
        base = replace(base, **{name: getattr(usual, name) for name in SUITED})
    if "seed" in given:
        base = expanding.reseeded(base, options["seed"])
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


def borrowed(shot: Shot, source: Path | None, given: set[str]) -> str:
    """A note on the local files that a record, which may be untrusted, has us read; "" for none."""
    named = [anchor.path for anchor in shot.anchors] if not given & {"anchor", "image", "end"} else []
    return f"{source} refers to files on this machine, which are read: {', '.join(named)}" if source and named else ""


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


def sources(shot: Shot) -> tuple[str, ...]:
    """The files that a shot is made of."""
    return *(anchor.path for anchor in shot.anchors), *(str(lora.file_of(one)) for one in shot.loras)


def check(shot: Shot, order: Order, target: Target) -> None:
    """Refuse bad anchors, names and folders before torch is loaded."""
    check_given(order.entry, bool(order.placed))
    one_image = target.path.suffix.lower() == ".png" and not target.numbered
    if one_image and shot.frames > 1:
        raise SoraError(f"{target.name} is an image but {shot.frames} frames are requested; use .mp4, %05d.png, "
                        "or --frames 1")  # fmt: skip
    for anchor in shot.anchors:
        if media.same_file(anchor.path, target.name):
            raise SoraError(f"{target.name} is also an anchor and would be overwritten; give another -o")
    target.check()
    target.check_format(format_of(shot, target.name))


def show_plan(order: "Order", jobs: Sequence[Job], compute: Compute, keeping: Keeping, showing: Showing) -> None:
    """The checks, notes and cost of a run that is not made (--dry-run)."""
    for one in jobs:
        one.check(replace(one.target, force=True))  # nothing is written
        assert one.needs  # or a line says what there is not
    with Screen(showing.quiet) as screen:
        for note in order.notes():
            screen.note(note)
    show_cost(order.cost(compute), order.plan(order.made).windows, order.retiming, keeping.as_json)


def show_cost(cost: "Estimate", windows: Sequence["Window"], rates: media.Retiming | None, as_json: bool) -> None:
    """Print the windows of a shot and what they cost on this machine."""
    from rich.console import Console

    if as_json:
        more = {"rate": rates.record()} if rates else {}
        typer.echo(json.dumps(cost.to_dict() | {"plan": [asdict(window) for window in windows]} | more))
        return
    if rates:
        typer.echo(rates.note())
    for number, window in enumerate(windows, 1):
        typer.echo(f"window {number:3}: makes {spelled(window.latent)}, sees {spelled(window.observed) or 'nothing'}")
    Console(highlight=False).print(cost.table())


def spelled(frames: Sequence[int]) -> str:
    """(0, 1, 2, 5) -> "0-2 5": latent frames, for a line of text."""
    return " ".join("-".join(dict.fromkeys(f"{end}" for end in (run[0], run[-1]))) for run in geometry.runs(frames))


# ---- the work ---------------------------------------------------------------------------------------------


def make(order: Order, number: int, compute: Compute, target: Target, networks: Networks, screen: Screen) -> None:
    """Make one video and the files beside it."""
    from sora_cli.generation.engine import GivenClip

    shot, placed = order.captioned(screen)[number], order.placed
    engine = networks.engine(order.entry, shot.loras, compute, screen)
    making = Making(target, screen, order.made.fps, shot.frames, order.retiming)
    canvas = order.entry.canvas(shot.width, shot.height)
    small = canvas.crop_width, canvas.crop_height
    run = making.denoise(engine.start(made(shot, order.entry), [GivenClip(p.start, p.opened(small)) for p in placed]))
    format = format_of(shot, making.target.name)
    size = format.size if placed else run.source_size
    for p in placed:
        making.expect_sound(p.path, p.sound, p.left_out)
        making.place_sound(p.sound, p.start, p.count)
    raw = media.from_rgb(making.watched(pictures(run, placed, size)), size, format, making.retiming)
    count = making.write(raw, format, {"sora": shot.to_json()})
    if count > 1:
        keep_latents(making.target, header_of(run), making.latents)
    record = {"verb": "generate", "frames": count, "shot": shot.to_dict()}
    making.finish(record, [range(p.start, p.stop) for p in placed])


def pictures(run: "Generation", placed: list[anchors.Placed], size: media.Size) -> "Iterator[np.ndarray]":
    """The frames to show: decoded ones, with the anchors' own frames in their places, unchanged."""
    shown = islice(run.frames(), run.span.lead, None)
    if not placed:
        return shown
    pieces = [piece(run, p, size) for p in placed]  # with key frames that are made before the decoder is at work
    return blend.joined(shown, run.shot.frames, pieces, size)


def piece(run: "Generation", placed: anchors.Placed, size: media.Size) -> blend.Piece:
    """An anchor's frames for the output, and the first of them that the decoder can decode on its own."""
    first, count = geometry.key_frames(placed.start + run.span.lead, placed.count)
    key = first * geometry.TIME_STRIDE - run.span.lead - placed.start if count else 0
    keyframe = run.decode_keyframe(placed.start + key)
    return blend.Piece(placed.start, placed.count, partial(placed.frames, size), keyframe, key)
