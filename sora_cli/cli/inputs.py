"""Videos that a command goes on from: opened as asked, with what was kept beside them. No torch by itself."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sora_cli import geometry, media
from sora_cli.cli.options import Input
from sora_cli.cli.screen import Screen
from sora_cli.errors import SoraError
from sora_cli.files import weights
from sora_cli.registry import Entry, SamplingDefaults
from sora_cli.shot import Shot, check_range
from sora_cli.storage import latent_file

if TYPE_CHECKING:
    from torch import Tensor

    from sora_cli.generation.given import GivenClip

PLAIN = SamplingDefaults()  # a picture without a model is shown at pocket's rate


@dataclass(frozen=True, kw_only=True)
class InputSpec(Input):
    """A video to read, and how: resized, at another rate, or as raw frames, which need size and rate."""

    name: str

    @property
    def changed(self) -> bool:
        return self.res is not None or self.fps is not None

    def check(self) -> None:
        """Refuse bad options and a missing input before anything is read."""
        media.check_input(self.name)
        for what, fps in (("--fps", self.fps), ("--input-fps", self.input_fps)):
            if fps is not None:
                check_range(what, fps, 1, 120)

    def open(self, screen: Screen | None = None, rgb: bool = False) -> media.Source:
        """The source at the requested size and rate, in RGB with `rgb`; the screen notes conversions."""
        source = self.open_slow(screen, rgb=rgb)
        if faster := self.faster(source):
            self.retime(source, faster, screen)
        return source

    def open_slow(self, screen: Screen | None = None, usage: SamplingDefaults = PLAIN,
                  rgb: bool = False) -> media.Source:  # fmt: skip
        """The same, but at its own rate if a higher one is requested: frames are better interpolated at the end, over
        the whole video. A picture gets the rate at which the model generates."""
        size = geometry.parse_res(self.res) if self.res is not None else None
        raw = geometry.parse_res(self.input_res) if self.input_res is not None else None
        source = media.open_source(self.name, size, None, raw, self.input_fps, rgb=rgb)
        if screen:
            source.report_to(screen.note)
            self.note_rate(source, raw is not None, screen)
        if source.is_image:
            rate = usage.rate(self.fps or usage.fps) if self.input_fps is None else self.input_fps
            source.format = replace(source.format, rate=Fraction(media.rational(rate)))
        elif self.fps and Fraction(media.rational(self.fps)) < source.format.rate:
            self.retime(source, media.Retiming.between(source.format.fps, self.fps), screen)
        return source

    def note_rate(self, source: media.Source, raw: bool, screen: Screen) -> None:
        """Note that --input-fps has no effect on a source with its own rate."""
        given, own = self.input_fps, source.format.rate
        if given is not None and not (raw or source.is_image) and Fraction(media.rational(given)) != own:
            screen.note(f"{self.name}: --input-fps does nothing, because the file says {source.format.fps:g} frames a "
                        "second; --fps changes the rate")  # fmt: skip

    def faster(self, source: media.Source) -> media.Retiming | None:
        """The conversion to the requested rate if that is higher than the source's, otherwise None."""
        if not self.fps or Fraction(media.rational(self.fps)) <= source.format.rate:
            return None
        return media.Retiming(source.format.rate, Fraction(media.rational(self.fps)))

    def retime(self, source: media.Source, retiming: media.Retiming, screen: Screen | None) -> None:
        source.retime(retiming)
        if screen:
            screen.note(f"{self.name}: {retiming.note()}")


def beside(name: str, what: str) -> str:
    """The default name of the output: `clip.mov` -> `clip-extended.mp4`; a pipe for a pipe."""
    if name == media.STREAM:
        return name
    path = Path(name)
    return str(path.with_name(f"{path.stem.replace('%', '')}-{what}.mp4"))


def shot_like(source: media.Source, settings: Shot, anew: bool = False) -> Shot:
    """The settings as a shot of a source's size and rate. Without a prompt, it takes the source's own and, for the
    same model, its caption (unless `anew`), so that the scene stays the same. The sides are the displayed ones, rounded
    up to even numbers; they only choose the canvas, and the output keeps the source's pixels, square or not."""
    width, height = (n + n % 2 for n in source.format.seen)
    prompt, captions = settings.prompt, settings.captions
    if not prompt.strip() and (record := latent_file.carried(source.metadata.get("sora", ""))):
        own = Shot.from_json(record)
        prompt, captions = own.prompt, () if anew or own.model != settings.model else own.captions[:1]
    return replace(settings, prompt=prompt, captions=captions, width=width, height=height, fps=source.format.fps)


@dataclass(frozen=True)
class SidecarLatents:
    """The saved latents of a video."""

    path: Path
    header: latent_file.Header
    context: int  # latents at its end that new ones are made to fit

    @classmethod
    def beside(cls, video: str, shot: Shot, entry: Entry) -> "SidecarLatents | None":
        """The latents beside a video file, if they belong to this very file, the model and the shot's canvas."""
        path = Path(video).with_suffix(".safetensors")
        if video == media.STREAM or not path.is_file() or not Path(video).is_file():
            return None
        try:
            header = latent_file.read_header(path)
        except SoraError:
            return None
        fits = header.vae == latent_file.vae_of(entry) and not header.cyclic
        fits = fits and header.canvas == entry.canvas(shot.width, shot.height)
        return cls(path, header, entry.usage.context) if fits and header.video == weights.hash_of(Path(video)) else None

    def end(self) -> "GivenClip":
        """The last few latents, before the first frame that follows the video: some of theirs may come after it."""
        from sora_cli.generation.given import GivenClip

        header, total = self.header, self.header.latents
        first = max(0, total - self.context)
        found, _ = latent_file.load(self.path, first)
        clock = header.clock + first * geometry.TIME_STRIDE / header.fps if header.clock >= 0 else None
        hidden = geometry.frames_in(total) - header.lead - header.frames
        return GivenClip(hidden - geometry.frames_in(found.shape[1]), latents=found.float(), clock=clock)

    def followed_by(self, made: "Tensor") -> "Tensor":
        """The video's latents followed by the newly `made` ones, whose first few are the video's last."""
        import torch

        found, _ = latent_file.load(self.path)
        return torch.cat([found.float(), made[:, min(self.context, found.shape[1]) :]], 1)
