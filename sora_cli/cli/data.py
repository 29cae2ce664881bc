"""`sora-cli data build | show`: from a folder of clips to a dataset to train on."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sora_cli import geometry
from sora_cli.cli.options import DebugOption, DeviceOption, DtypeOption, ForceOption, JsonOption, QuietOption
from sora_cli.cli.outputs import check_output
from sora_cli.cli.screen import Screen, print_result
from sora_cli.dataset import summary
from sora_cli.dataset.shards import AGAIN, MANIFEST
from sora_cli.errors import SoraError, among, be, counted, have, listed
from sora_cli.files import owned
from sora_cli.media.kinds import left_out
from sora_cli.shot import check_range

if TYPE_CHECKING:
    from sora_cli.dataset.build import BuildConfig

data = typer.Typer(help="Build a dataset from a folder of clips, and inspect it.")

WORKERS = min(4, os.cpu_count() or 1)
TOKEN = geometry.SPACE_STRIDE * geometry.PATCH   # pixels along each side


@data.command()
def build(
    folder: Annotated[
        Path,
        typer.Argument(parser=owned.folder, help="Clips and images, with captions beside them: NAME.txt, NAME.json."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DATASET", parser=owned.folder, help="Folder of the dataset.")
    ],
    captions: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="A .csv or .jsonl table with the columns file and caption.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Autoencoder, a file or a run; by default pocket's.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text tower, a file or a run; by default pocket's.")] = None,
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Approximate frame size; each clip keeps its aspect ratio.")
    ] = "320x192",
    fps: Annotated[float, typer.Option(help="Highest frame rate; faster clips lose frames.")] = 30.0,
    max_seconds: Annotated[float, typer.Option(help="Longest shot; longer ones are split.")] = 8.0,
    workers: Annotated[int, typer.Option(min=1, help="Files to read in parallel.")] = WORKERS,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove samples of missing files, even if most are missing.")
    ] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Cut the clips of a folder into shots and encode them; what is encoded already is kept.

    DATASET/manifest.jsonl has a line for every file of the folder, which says how it was used or why it was not."""
    check_range("--fps", fps, 1, 120)
    check_range("--max-seconds", max_seconds, 0.5, 600)
    width, height = geometry.parse_res(size)
    tokens = max(1, round(width * height / TOKEN**2))
    if not folder.is_dir():
        raise SoraError(f"there is no folder {folder}")

    from sora_cli.dataset.build import BuildConfig

    config = BuildConfig(folder, output, tokens, fps, max_seconds, workers, captions, vae, text, prune)
    config.check()
    with Screen(quiet) as screen, config.own:
        make(config, device, dtype, screen)
    typer.echo(str(output))


def make(config: "BuildConfig", device: str, dtype: str, screen: Screen) -> None:
    """Scan, plan, encode and finish, with progress bars and notes."""
    from sora_cli.dataset import build as building
    from sora_cli.dataset.captions import Captions
    from sora_cli.dataset.kept import sound
    from sora_cli.dataset.scan import files_of, outside
    from sora_cli.dataset.warnings import caption_warnings, some

    files = files_of(config.source, config.out)
    config.check_sources(set(files))
    captions = Captions(config.source, [file for file, reason in files.items() if not reason], config.captions)
    records = list(screen.track(building.scan_files(config, files), "scan", len(files)))
    used = [record for record in records if not record.reason]
    unseen = [record.file for record in used if outside(config.source, record.file).unseen]
    config.check_sources({record.file for record in used} - set(unseen), "not usable now (options? a broken disk?);")
    if unseen:
        screen.note(f"{some(unseen)} cannot be read now; its samples are kept")
    of_use = f"{among(len(used), len(records), 'file')} {be(len(used))} usable"
    screen.note(f"{of_use}; {config.out / MANIFEST} says what happened to each")
    for line in left_out(filter(None, files.values())):
        screen.note(line)
    if framed := [record.file for record in used if any(record.bars)]:
        count = len(framed)
        screen.note(f"{counted(count, 'video')} {have(count)} black bars, which are cut off: {some(framed)}")
    for note in dict.fromkeys(note for record in used for note in record.notes):
        screen.note(f"{some([record.file for record in used if note in record.notes])}: {note}")
    there, bad = sound(config.out)
    if bad:
        screen.note(f"{counted(len(bad), 'shard')} {be(len(bad))} made again: {some(bad)}")
    networks = building.Networks.load(config.vae, config.text, device, dtype)
    texts = {record.file: captions.of(record.file).text for record in used}
    for line in caption_warnings(config, texts, captions, networks):
        screen.note(line)
    samples = [sample for record in used for sample in building.samples_of(record, texts[record.file], config)]
    plan = building.plan(samples, networks)
    building.check_room(config, plan)
    missing = sum(len(shard.samples) for shard in building.missing_in(config.out, plan))
    for _ in screen.track(building.encode(config, plan, networks), "encode", missing):
        pass
    new = building.finish(config, records, captions, plan, networks, there) or bool(bad)
    if not samples:
        raise SoraError(f"nothing in {config.source} is usable; {config.out / MANIFEST} says why")
    made = [sample for shard in plan for _, sample in shard.samples]
    count, of = len(made), counted(len({sample.record.file for sample in made}), "file")
    line, were = f"{counted(count, 'sample')} of {of}", "was" if count == 1 else "were"
    screen.note(f"{line} {be(count)} in {config.out}" if new else
                f"nothing to do: {line} {were} in {config.out} already")  # fmt: skip


@data.command()
def show(
    dataset: Annotated[Path, typer.Argument(help="A folder made by `data build`.")],
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also write a contact sheet.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Summarize a dataset: files, shots, sizes, captions, and what was skipped."""
    if sheet is not None:
        check_output(sheet, (".png",), force)
    found = summary.summary(dataset)
    if sheet is not None:
        summary.sheet(dataset, sheet)
    print_result(found, as_json, lines(found), 14)


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the summary for people."""
    minutes, seconds = divmod(found["seconds"], 60)
    captions, (least, mean, most) = found["captions"], found["captions"]["words"]
    used = f"{counted(found['videos'], 'video')} and {counted(found['images'], 'image')} used"
    return [
        ("source", found["source"]),
        ("files", f"{found['files']}: {used}"),
        ("skipped", numbers(found["skipped"])),
        ("shots", f"{found['shots']}, of {minutes:.0f} min {seconds:.0f} s in all"),
        ("shots skipped", numbers(found["skipped_shots"])),
        ("samples", f"{found['samples']}, of {counted(found['latents'], 'latent')} in all, "
                    f"{found['bytes'] / 1e6:.1f} MB"),
        *([("damaged", f"{', '.join(found['damaged'])}; {AGAIN}")] if found["damaged"] else []),
        ("lengths", f"{numbers(found['lengths'])} (latents: samples)"),
        ("sizes", numbers(found["sizes"])),
        ("canvases", numbers(found["canvases"])),
        ("captions", f"{captions['different']} different, of {least} to {counted(most, 'word')} ({mean:g} on average); "
                     f"{counted(captions['none'], 'file')} {have(captions['none'])} none"
                     if captions["different"] else "none"),
        ("vae, text", f"{found['vae']}, {found['text']}"),
    ]  # fmt: skip


def numbers(counts: dict[str, int]) -> str:
    """`640x360: 12, 320x240: 3`"""
    return listed([f"{name}: {count}" for name, count in counts.items()]) or "none"
