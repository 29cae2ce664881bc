"""Frames between, against what is really there: PSNR of ffmpeg's ways to a higher frame rate on renders of the world.

    python benchmarks/rates.py
"""

import argparse
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange

from sora_cli.evaluate.clips import held_out
from sora_cli.media import ffmpeg
from sora_cli.media.convert import YUV
from sora_cli.media.retiming import BEHIND, MOTION
from sora_cli.world.render import render

WIDTH, HEIGHT, SCENES, DIFFERENT = 320, 192, 6, 24  # levels by which a pixel that moves differs
WAYS = {
    "the nearest frame again": "fps={rate}",
    "blend": "minterpolate=fps={rate}:mi_mode=blend",
    "ours": MOTION,
    "bidir": f"{MOTION}:me_mode=bidir",
    "bidir, mb_size 8": f"{MOTION}:me_mode=bidir:mb_size=8",
    "bidir, umh": f"{MOTION}:me_mode=bidir:me=umh",
}


def shown(clip: np.ndarray, rate: int, words: str) -> tuple[np.ndarray, float]:
    """What a filter makes of frames [T, H, W, 3] at a rate, and in how many seconds."""
    frames = np.concatenate([clip, *[clip[-1:]] * BEHIND])
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [ffmpeg(), "-loglevel", "error", "-threads", "1", *raw, "-video_size", f"{WIDTH}x{HEIGHT}"]
    command += ["-framerate", str(rate), "-i", "pipe:0", "-vf", f"{YUV},{words},format=rgb24", *raw, "pipe:1"]
    began = time.perf_counter()
    made = subprocess.run(command, input=frames.tobytes(), stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(made, np.uint8).reshape(-1, HEIGHT, WIDTH, 3), time.perf_counter() - began


def psnr(error: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(error.astype(float)).mean()))


def rows(rate: int, wanted: int) -> Iterator[tuple[str, float, float, float]]:
    """Of every way: PSNR of the frames between, that where something moves, and frames a second."""
    step, scenes = wanted // rate, held_out(SCENES, 3)
    seconds = torch.arange(wanted + 1, dtype=torch.float64) / wanted
    pictures = render(scenes, seconds.expand(SCENES, wanted + 1), HEIGHT, WIDTH)
    real = (rearrange(pictures, "b t c h w -> b t h w c") * 255).round().byte().numpy()
    between = [n for n in range(wanted) if n % step]
    for name, words in WAYS.items():
        whole, moving, spent = [], [], 0.0
        for video in real:
            made, took = shown(video[::step], rate, words.format(rate=wanted))
            error, spent = made[between].astype(int) - video[between], spent + took
            ends = [(video[n // step * step].astype(int), video[n // step * step + step]) for n in between]
            moves = np.stack([np.abs(one - other).max(-1) > DIFFERENT for one, other in ends])
            whole.append(psnr(error))
            moving.append(psnr(error[moves]))
        yield name, float(np.mean(whole)), float(np.mean(moving)), SCENES * wanted / spent


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    for rate, wanted in ((16, 48), (24, 48), (24, 72)):
        print(f"| {rate} to {wanted} frames a second | whole | moving | frames/s |\n|---|---|---|---|")
        for name, whole, moving, speed in rows(rate, wanted):
            print(f"| {name} | {whole:.1f} dB | {moving:.1f} dB | {speed:.0f} |", flush=True)
