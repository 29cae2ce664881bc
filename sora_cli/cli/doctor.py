"""`sora-cli doctor`: whether all that is needed is there, and which model this machine is good for."""

import re
import subprocess
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sora_cli import media, registry
from sora_cli.cli import models
from sora_cli.cli.options import DebugOption, JsonOption
from sora_cli.cli.screen import print_result
from sora_cli.errors import Failed, SoraError, counted, readable
from sora_cli.generation.plan import plan
from sora_cli.placement import machine
from sora_cli.placement.estimate import dry_run, duration, quantity
from sora_cli.registry import Entry

SMALLEST_MEMORY, SMALLEST_DISK = 700e6, 100e6   # bytes that pocket and its videos take
ENCODERS = ("libx264", "libvpx-vp9", "libwebp", "gif", "apng", "png")   # the first of them is in every MP4
NAMES = {"mps": "Apple GPU"}
TIMEOUT = 3.0                                   # seconds for the Hub to answer
PATIENCE = 900.0                                # seconds that one waits for a model's own length of video


@dataclass(frozen=True)
class Finding:
    """The result of one check: in words, as JSON, and the reason if pocket cannot run (`broken`)."""

    name: str
    words: str
    facts: dict[str, Any] = field(default_factory=dict)
    broken: str = ""


@dataclass(frozen=True)
class Choice:
    """A model on this machine, at the size and length that it is best at."""

    model: str
    size: str
    download: float          # bytes that are not here yet
    seconds: float | None = None
    peak: float | None = None
    placement: str = ""
    problem: str = ""        # why it cannot run here


def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check this installation, and recommend a model for this machine."""
    findings = [check() for check in (torch_here, device_here, memory_here, ffmpeg_here, disk_here, cache_here,
                                      hub_here, pocket_here, names_here)]  # fmt: skip
    broken = [finding.broken for finding in findings if finding.broken]
    works = all(finding.facts for finding in findings if finding.name in ("torch", "device"))
    choices = [choice(registry.entry(name)) for name in findings[-1].facts["names"]] if works else []
    report: dict[str, Any] = {finding.name: finding.facts for finding in findings}
    report |= {"models": [asdict(one) for one in choices], "best": best(choices), "broken": broken}
    print_result(report, as_json, ((finding.name, finding.words) for finding in findings), 8)
    if choices and not as_json:
        show(choices)
    if broken:
        raise Failed(f"pocket cannot run here: {'; '.join(broken)}")


def show(choices: list[Choice]) -> None:
    columns = (Column(name, no_wrap=True) for name in ("model", "its video", "download", "time", "memory"))
    table = Table(*columns, "transformer", box=SIMPLE_HEAD, pad_edge=False)
    for one in choices:
        spent = duration(one.seconds) if one.seconds is not None else "-"
        peak = quantity(one.peak, "B") if one.peak is not None else "-"
        download = quantity(one.download, "B") if one.download else "-"
        table.add_row(one.model, one.size, download, spent, peak, escape(readable(one.problem or one.placement)))
    Console(highlight=False).print(table)
    typer.echo(f"best here: --model {best(choices)}")


def torch_here() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", f"does not load: {error}", broken=f"torch does not load ({error})")
    facts = {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return Finding("torch", f"{torch.__version__}, {build}, {counted(torch.get_num_threads(), 'thread')}", facts)


def device_here() -> Finding:
    """The device that `--device auto` takes, and its number format."""
    try:
        import torch

        from sora_cli.placement.device import pick_device, pick_dtype

        device = pick_device("auto")
        dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
        free = machine.device_free(device)
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("device", f"does not answer: {error}", broken=f"the device does not answer ({error})")
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else NAMES.get(device.type, "CPU")
    facts = {"kind": device.type, "name": named, "dtype": dtype, "free": free}
    return Finding("device", f"{named}, {quantity(free, 'B')} free, computes in {dtype}", facts)


def memory_here() -> Finding:
    free = machine.host_free()
    words = f"{quantity(free, 'B')} of main memory free"
    short = f"{words} of {quantity(SMALLEST_MEMORY, 'B')} needed" if free < SMALLEST_MEMORY else ""
    return Finding("memory", words, {"free": free}, short)


def ffmpeg_here() -> Finding:
    """Which ffmpeg is used, and which of the encoders we need it has."""
    try:
        program = media.ffmpeg()
        version = re.match(r"ffmpeg version (\S+)", output_of(program, "-version"))
        encoders = set(re.findall(r"^ V\S+ (\S+)", output_of(program, "-hide_banner", "-encoders"), re.MULTILINE))
    except (Failed, OSError, subprocess.SubprocessError) as error:
        return Finding("ffmpeg", f"does not run: {error}", broken=f"ffmpeg does not run ({error})")
    there, lacking = ([name for name in ENCODERS if (name in encoders) is has] for has in (True, False))
    number = version[1] if version else "of unknown version"
    words = f"{number}, encodes {', '.join(there) or 'nothing'}" + (f", not {', '.join(lacking)}" if lacking else "")
    broken = f"ffmpeg has no {ENCODERS[0]}, which encodes MP4 ({program})" if ENCODERS[0] in lacking else ""
    return Finding("ffmpeg", f"{words} ({program})", {"path": program, "version": number, "encoders": there}, broken)


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=20, check=True)
    return done.stdout.decode(errors="replace")


def disk_here() -> Finding:
    """Free space in the current folder, where videos are written by default."""
    folder = Path.cwd()
    free = machine.disk_free(folder)
    words = f"{quantity(free, 'B')} free in {folder}"
    short = f"the disk has {words} of {quantity(SMALLEST_DISK, 'B')} needed" if free < SMALLEST_DISK else ""
    return Finding("disk", words, {"folder": str(folder), "free": free}, short)


def cache_here() -> Finding:
    """The downloads of the Hub's client, which other programs share."""
    folder = machine.downloads()
    size = sum(path.stat().st_size for path in folder.glob("models--*/blobs/*") if path.is_file())
    free = machine.disk_free(folder)
    words = f"{quantity(size, 'B')} downloaded to {folder}, {quantity(free, 'B')} free there"
    return Finding("cache", words, {"folder": str(folder), "bytes": size, "free": free})


def hub_here() -> Finding:
    """Whether the Hub answers; being offline is no fault."""
    from huggingface_hub import constants

    where = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "not checked, because HF_HUB_OFFLINE is set", {"endpoint": where, "reached": False})
    try:
        urlopen(Request(where, method="HEAD"), timeout=TIMEOUT).close()
    except HTTPError as error:                      # it answered
        return Finding("hub", f"{where} answers {error.code}", {"endpoint": where, "reached": True})
    except (OSError, ValueError, HTTPException) as error:
        why = getattr(error, "reason", error)  # of urllib's, which adds brackets of its own
        words = f"{where} cannot be reached ({why}); downloaded models work without it"
        return Finding("hub", words, {"endpoint": where, "reached": False})
    return Finding("hub", f"{where} can be reached", {"endpoint": where, "reached": True})


def pocket_here() -> Finding:
    try:
        registry.verify(registry.entry("pocket"))
    except SoraError as error:
        return Finding("pocket", f"cannot be used: {error}", {"intact": False}, str(error))
    return Finding("pocket", "its weights are intact", {"intact": True})


def names_here() -> Finding:
    """The models known by name; a mistake in the user's weights.toml leaves the shipped ones usable."""
    try:
        names = registry.names()
    except SoraError as error:
        shared = registry.TEXT, registry.TINY
        names = [name for name, model in registry.registry().items() if model.kind not in shared]
        return Finding("models", f"those that are shipped; {error}", {"names": names})
    return Finding("models", f"{len(names)} by name", {"names": names})


def choice(model: Entry) -> Choice:
    """The cost of a model on this machine, for a video of its usual size and length."""
    shot = models.default_shot(model, "a cat surfing")
    size = f"{shot.seconds:.0f} s at {shot.width}x{shot.height}"
    try:
        cost = dry_run(plan(shot, model))
    except SoraError as error:
        return Choice(model.name, size, 0, problem=str(error))
    download = sum(cost.download.values())
    room = machine.disk_free(machine.downloads())
    problem = f"the download does not fit on the disk, which has {quantity(room, 'B')} free" if download > room else ""
    placement = cost.placement.short if cost.placement else "in memory"
    return Choice(model.name, size, download, cost.time, cost.peak, placement, problem)


def best(choices: list[Choice]) -> str:
    """The largest model that is fast enough here, the fastest of several; otherwise the shipped one."""
    able = [one for one in choices if not one.problem and one.seconds is not None and one.seconds <= PATIENCE]
    if not able:
        return "pocket"
    return max(able, key=lambda one: (registry.entry(one.model).parameters, -(one.seconds or 0))).model
