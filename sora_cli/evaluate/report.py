"""Measurements as tables for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from sora_cli.evaluate.measure import KINDS, TRUSTED, trusted

SOURCES = {
    "generated": "generated",
    "decoded": "real, through the VAE",
    "real": "real renders",
    "shuffled": "shuffled captions",
    "another": "generated, against another subject",
}


def table(result: dict[str, Any]) -> RenderableType:
    """What `evaluate` returned, as rich tables."""
    return Group(judge(result), *(part(result) for part in (reconstruction, adherence, alike, drift)))


def judge(result: dict[str, Any]) -> RenderableType:
    """How often the judge is right, and what it therefore may not judge."""
    shown = grid(f"The judge, on {result['clips']} real renders of each", *("", *result["judge"]))
    shown.add_row(SOURCES["real"], *map(share, result["judge"].values()))
    if doubted := [kind for kind in result["judge"] if kind not in trusted(result["judge"])]:
        shown.caption = f"under {TRUSTED:.0%} for {', '.join(doubted)}: its answers on that are left out below"
    return shown


def reconstruction(result: dict[str, Any]) -> Table:
    shown = grid("VAE: held-out clips, encoded and decoded", "size", "PSNR", "subject's cells", "SSIM", "flicker")
    for row in result["reconstruction"]:
        levels = f"{row['psnr']:.1f} dB", f"{row['subject']:.1f} dB"
        shown.add_row(row["size"], *levels, f"{row['ssim']:.3f}", f"{row['flicker']:.4f}")
    return shown


def adherence(result: dict[str, Any]) -> Table:
    kinds, judged = (*KINDS, "all"), trusted(result["judge"])
    shown = grid(f"Prompt adherence: {result['clips']} held-out combinations", "", *kinds, "motion")
    for source, score in result["adherence"].items():
        motion = result["motion"].get(source)
        shares = [share(score[kind]) if kind in judged or source == "real" else "?" for kind in kinds]
        shown.add_row(SOURCES[source], *shares, "" if motion is None else f"{motion:.4f}")
    return shown


def alike(result: dict[str, Any]) -> Table:
    title = f"Like the scene itself: {result['clips']} held-out combinations"
    shown = grid(title, "", "subject's cells", "whole picture", "sharpness")
    for source, score in result["alike"].items():
        levels = (f"{score[key]['mean']:.1f} ± {score[key]['error']:.1f} dB" for key in ("subject", "whole"))
        shown.add_row(SOURCES[source], *levels, f"{score['sharpness']['mean']:.2f}")
    return shown


def drift(result: dict[str, Any]) -> Table:
    found, judged = result["drift"], trusted(result["judge"])
    edges = [f"{i * found['seconds_per_slice']:.0f} s" for i in range(len(found["real"]["colour"]))]
    shown = grid(f"Drift over time: {found['clips']} long clips, by the start of the slice", "", *edges)
    for source in ("generated", "real"):
        shown.add_row(f"colour, {SOURCES[source]}", *(f"{value:.3f}" for value in found[source]["colour"]))
        for what in (kind for kind in KINDS if kind in judged):
            shown.add_row(f"{what}, {SOURCES[source]}", *(f"{value:.0%}" for value in found[source][what]))
    shown.add_row("subject's cells, generated", *(f"{value:.1f} dB" for value in found["generated"]["like"]))
    return shown


def share(found: dict[str, float]) -> str:
    """A share with its standard error."""
    return f"{found['mean']:.0%} ± {100 * found['error']:.0f}"


def grid(title: str, first: str, *columns: str) -> Table:
    shown = Table(title=title, title_justify="left", caption_justify="left")
    shown.add_column(first)
    for column in columns:
        shown.add_column(column, justify="right")
    return shown
