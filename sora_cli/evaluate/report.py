"""Measurements as tables for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

SOURCES = {
    "generated": "generated",
    "decoded": "real, through the VAE",
    "real": "real renders",
    "shuffled": "shuffled captions",
}


def table(result: dict[str, Any]) -> RenderableType:
    """What `evaluate` returned, as rich tables."""
    return Group(reconstruction(result), adherence(result), drift(result))


def reconstruction(result: dict[str, Any]) -> Table:
    shown = grid("VAE: held-out clips, encoded and decoded", "size", "PSNR", "SSIM", "flicker")
    for row in result["reconstruction"]:
        shown.add_row(row["size"], f"{row['psnr']:.1f} dB", f"{row['ssim']:.3f}", f"{row['flicker']:.4f}")
    return shown


def adherence(result: dict[str, Any]) -> Table:
    title = f"Prompt adherence: {result['clips']} held-out combinations"
    shown = grid(title, "", "subject", "action", "place", "all", "motion")
    for source, score in result["adherence"].items():
        motion = result["motion"].get(source)
        shares = [f"{score[key]:.0%}" for key in ("subject", "action", "place", "all")]
        shown.add_row(SOURCES[source], *shares, "" if motion is None else f"{motion:.4f}")
    return shown


def drift(result: dict[str, Any]) -> Table:
    found = result["drift"]
    edges = [f"{i * found['seconds_per_slice']:.0f} s" for i in range(len(found["real"]["colour"]))]
    shown = grid(f"Drift over time: {found['clips']} long clips, by the start of the slice", "", *edges)
    for source in ("generated", "real"):
        shown.add_row(f"colour, {SOURCES[source]}", *(f"{value:.3f}" for value in found[source]["colour"]))
        for what in ("subject", "place"):
            shown.add_row(f"{what}, {SOURCES[source]}", *(f"{value:.0%}" for value in found[source][what]))
    return shown


def grid(title: str, first: str, *columns: str) -> Table:
    shown = Table(title=title, title_justify="left")
    shown.add_column(first)
    for column in columns:
        shown.add_column(column, justify="right")
    return shown
