"""Whole inputs of every kind for `hostile.py`, small, each with command lines that read them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from sora_cli import cli, media
from sora_cli.files import published

Words = list[str]
FAST = ["--device", "cpu"]
QUICK = [*FAST, "--steps", "1"]
OUTPUTS = {"out.mp4", "out.png", "out.safetensors", "out.jsonl", "out.json"}
PIPED = ("a pipe",)
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
ENCODERS: dict[str, tuple[str, ...]] = {
    "a.mp4": H264, "a.mkv": H264, "a.ts": H264, "a.flv": H264, "a.mov": ("-c:v", "mjpeg"), "a.avi": ("-c:v", "mpeg4"),
    "a.webm": ("-c:v", "libvpx", "-deadline", "realtime"), "a.gif": (), "a.mpg": ("-c:v", "mpeg2video", "-r", "25"),
    "a.y4m": ("-pix_fmt", "yuv420p"),
}  # fmt: skip
PICTURES = ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.avif", "a.gif")
GENERATE = ["generate", "a cat", "--frames", "1", "--res", "128x96", *QUICK, "-o", "out.png"]
WAN = [*GENERATE, "--model", "./wan"]


@dataclass(frozen=True)
class Made:
    """A folder, the files in it of which one is damaged, and command lines of which one is run in it."""

    folder: Path
    victims: list[str]
    commands: list[Words]


def make(kind: str, folder: Path) -> Made:
    folder.mkdir(parents=True)
    victims, commands = MAKERS[kind](folder)
    return Made(folder, victims, commands)


def clip(path: Path) -> Path:
    source = f"testsrc2=s=96x64:r={25 if path.suffix == '.mpg' else 24}"
    words = [media.ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source, "-frames:v", "14"]
    subprocess.run([*words, *ENCODERS[path.name], path], check=True, capture_output=True)
    return path


def picture(path: Path) -> Path:
    y, x = np.mgrid[0:96, 0:128]
    Image.fromarray(np.stack([x * 2, y * 2, x + y], -1).astype(np.uint8)).save(path)
    return path


# ---- footage ----------------------------------------------------------------------------------------------


def video(name: str) -> Callable[[Path], tuple[list[str], list[Words]]]:
    def maker(folder: Path) -> tuple[list[str], list[Words]]:
        clip(folder / name)
        encode = ["encode", name, "-o", "out.safetensors", *FAST]
        return [name], [encode, encode, ["caption", name, "-o", "out.jsonl"], ["info", name],
                        ["extend", name, "a cat", "--after", "0.2", *QUICK, "-o", "out.mp4"]]  # fmt: skip

    return maker


def image(name: str) -> Callable[[Path], tuple[list[str], list[Words]]]:
    def maker(folder: Path) -> tuple[list[str], list[Words]]:
        picture(folder / name)
        return [name], [["caption", name, "-o", "out.jsonl"], ["generate", "a cat", "--image", name, "--frames", "5",
                         "--res", "128x96", *QUICK, "-o", "out.mp4"]]  # fmt: skip

    return maker


def pipe(folder: Path) -> tuple[list[str], list[Words]]:
    for name in ENCODERS:
        clip(folder / name)
    return list(ENCODERS), [["encode", "-", "-o", "out.safetensors", *FAST]]


def latents(folder: Path) -> tuple[list[str], list[Words]]:
    clip(folder / "a.mp4")
    run(folder, ["encode", "a.mp4", "-o", "a.safetensors", *FAST])
    return ["a.safetensors"], [["decode", "a.safetensors", "-o", "out.mp4", *FAST], ["info", "a.safetensors"],
                               ["generate", "--from", "a.safetensors", *QUICK, "-o", "out.mp4"]]  # fmt: skip


# ---- models -----------------------------------------------------------------------------------------------


def wan(folder: Path) -> Path:
    import wan_folders  # type: ignore[import-not-found]

    made: Path = wan_folders.write(folder / "wan", wan_folders.WAN21, channels=16)
    return made


def weights(folder: Path) -> tuple[list[str], list[Words]]:
    files = [path for path in sorted(wan(folder).rglob("*.safetensors"))]
    return [str(path.relative_to(folder)) for path in files], [WAN]


def configs(folder: Path) -> tuple[list[str], list[Words]]:
    files = [path for path in sorted(wan(folder).rglob("*.json")) if path.name.endswith(("config.json", "index.json"))]
    used = [path for path in files if path.name != "tokenizer_config.json" and path.name != "model_index.json"]
    return [str(path.relative_to(folder)) for path in used], [WAN, WAN, [*WAN, "--dry-run"]]


def tokenizer(folder: Path) -> tuple[list[str], list[Words]]:
    wan(folder)
    return ["wan/tokenizer/tokenizer.json"], [WAN]


def lora(folder: Path) -> tuple[list[str], list[Words]]:
    stored = [one for path in published.files_of(wan(folder) / "transformer") for one in published.about(path)[1]]
    matrices = {one.key.removesuffix(".weight"): one.shape for one in stored if len(one.shape) == 2
                and one.key.startswith("blocks.")}  # fmt: skip
    tensors: dict[str, torch.Tensor] = {}
    for key, (out, into) in matrices.items():
        tensors |= {f"diffusion_model.{key}.lora_down.weight": torch.randn(4, into) / 9,
                    f"diffusion_model.{key}.lora_up.weight": torch.randn(out, 4) / 9,
                    f"diffusion_model.{key}.alpha": torch.tensor(2.0)}  # fmt: skip
    told = {"ss_network_alpha": "2", "note": json.dumps({"lora_alpha": 2, "r": 4})}
    save_file(tensors, folder / "a.safetensors", told)
    (folder / "peft").mkdir()
    plain = {key.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): value for key, value in tensors.items()
             if not key.endswith("alpha")}  # fmt: skip
    save_file(plain, folder / "peft" / "adapter_model.safetensors")
    (folder / "peft" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2, "peft_type": "LORA"}))
    return (["a.safetensors", "peft/adapter_model.safetensors", "peft/adapter_config.json"],
            [[*WAN, "--lora", "a.safetensors", "--lora", "peft"],
             [*WAN, "--lora", "peft", "--lora", "a.safetensors:0.5"]])


def packed(folder: Path) -> tuple[list[str], list[Words]]:
    writer = gguf.GGUFWriter(folder / "a.gguf", "wan")
    writer.add_string("general.name", "small")
    writer.add_array("tokens", ["a", "b", "c"])
    writer.add_uint32("general.alignment", 32)
    rng = np.random.default_rng(0)
    for number in range(4):
        writer.add_tensor(f"blocks.{number}.attn1.to_q.weight", rng.normal(size=(64, 64)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ["a.gguf"], [["generate", "a cat", "--model", "./a.gguf", "--dry-run"], [*GENERATE, "--model", "./a.gguf"],
                        [*GENERATE, "--lora", "a.gguf"]]  # fmt: skip


def exported(folder: Path) -> tuple[list[str], list[Words]]:
    """A registry of one's own that names the files of a model."""
    wan(folder)
    here = {"transformer": "dit", "vae": "vae", "text_encoder": "text", "tokenizer": "tokenizer"}
    parts = ", ".join(f'{{role = "{role}", path = "../wan/{name}"}}' for name, role in here.items())
    (folder / "mine").mkdir()
    (folder / "mine" / "weights.toml").write_text(
        '[mine]\nabout = "a small one"\nlicense = "Apache-2.0"\nlike = "wan2.1-1.3b"\n'
        f"width = 128\nheight = 96\nframes = 5\nfps = 16\nsteps = 1\nguidance = 1.0\nparts = [{parts}]\n")  # fmt: skip
    return ["mine/weights.toml"], [[*GENERATE, "--model", "./mine"], [*GENERATE, "--model", "./mine", "--dry-run"]]


# ---- texts ------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> None:
    (folder / "clips").mkdir()
    for name in ("a", "b", "c"):
        picture(folder / "clips" / f"{name}.png")


def tables(folder: Path) -> tuple[list[str], list[Words]]:
    pictures(folder)
    rows = [(f"{name}.png", f'a boat, "{name}", on the sea') for name in "abc"]
    (folder / "t.jsonl").write_text("".join(json.dumps({"file": a, "caption": b}) + "\n" for a, b in rows))
    cells = "".join(f'{a},"{b}"\n' for a, b in ((a, b.replace('"', '""')) for a, b in rows))
    (folder / "t.csv").write_text("file,caption\n" + cells)
    victims = ["t.jsonl", "t.csv"]
    return victims, [["data", "build", "clips", "-o", "ds", "--captions", name, *FAST] for name in victims]


def sidecars(folder: Path) -> tuple[list[str], list[Words]]:
    pictures(folder)
    (folder / "clips" / "a.txt").write_text("a boat on the sea, as it rains")
    (folder / "clips" / "b.json").write_text(json.dumps({"caption": "a boat", "tags": ["x", "y"], "score": 5}))
    (folder / "clips" / "c.caption").write_text("ein Boot für zwei", encoding="utf-16")
    return (["clips/a.txt", "clips/b.json", "clips/c.caption"],
            [["data", "build", "clips", "-o", "ds", *FAST], ["caption", "clips", "--sidecars"]])


def records(folder: Path) -> tuple[list[str], list[Words]]:
    picture(folder / "p.png")
    run(folder, ["generate", "a cat", "--frames", "5", "--res", "128x96", *QUICK, "--image", "p.png", "-o", "a.mp4"])
    again = ["generate", "--frames", "5", *QUICK, "-o", "out.mp4", "--from"]
    return (["a.json", "a.json", "a.json", "a.mp4", "a.safetensors"],
            [[*again, name] for name in ("a.json", "a.json", "a.mp4", "a.safetensors")])


def lists(folder: Path) -> tuple[list[str], list[Words]]:
    more = {"frames": 1, "res": "128x96", "steps": 1}
    lines = [{"prompt": "a cat {red|blue}", "output": "x{n}.png", "seed": seed, **more} for seed in (1, 2)]
    (folder / "l.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "l.csv").write_text('prompt,frames,res,steps\n"a cat, surfing",1,128x96,1\na dog,1,128x96,1\n')
    (folder / "l.txt").write_text("a cat surfing\n\na dog in a meadow\n")
    return (["l.jsonl", "l.csv"], [["batch", "l.jsonl", *FAST, "--dry-run"], ["batch", "l.csv", *FAST, "--dry-run"],
                                   ["batch", "l.jsonl", *FAST]])  # fmt: skip


# ---- folders of work --------------------------------------------------------------------------------------


def resumes(folder: Path) -> tuple[list[str], list[Words]]:
    """The windows of a video that was not finished."""
    from sora_cli.generation import engine

    words = ["generate", "a cat", "--frames", "41", "--res", "128x96", *QUICK, "-o", "out.mp4"]
    original = engine.Generation.frames
    try:
        engine.Generation.frames = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        run(folder, words)
    finally:
        engine.Generation.frames = original  # type: ignore[method-assign]
    files = [str(path.relative_to(folder)) for path in sorted((folder / "out.mp4.resume").iterdir()) if path.suffix]
    assert files
    return files, [[*words, "--resume"]]


def datasets(folder: Path) -> tuple[list[str], list[Words]]:
    pictures(folder)
    run(folder, ["data", "build", "clips", "-o", "ds", *FAST])
    files = [str(path.relative_to(folder)) for path in sorted((folder / "ds").iterdir()) if path.suffix]
    build = ["data", "build", "clips", "-o", "ds", *FAST]
    return files, [["data", "show", "ds"], build, ["data", "show", "ds", "--sheet", "out.png"],
                   ["train", "dit", "--preset", "nano", "--data", "ds", "--steps", "1", "--out", "run", "--batch", "1"]]


def checkpoints(folder: Path) -> tuple[list[str], list[Words]]:
    words = ["train", "clip", "--preset", "nano", "--batch", "4", "--out", "run", *FAST, "--steps"]
    run(folder, [*words, "1"])
    files = [str(path.relative_to(folder)) for path in sorted((folder / "run").rglob("*"))
             if path.suffix in (".safetensors", ".json", ".jsonl", ".pt")]  # fmt: skip
    assert files
    return files, [[*words, "2"]]


def run(folder: Path, words: Words) -> None:
    """A command line in a folder."""
    import contextlib
    import io

    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        code = cli.run(words)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    assert code in (0, 130), (words, code)


MAKERS: dict[str, Callable[[Path], tuple[list[str], list[Words]]]] = {
    **{f"video, {name[2:]}": video(name) for name in ENCODERS},
    **{f"picture, {name[2:]}": image(name) for name in PICTURES},
    "a pipe": pipe, "latents": latents, "weights": weights, "configuration": configs, "tokenizer": tokenizer,
    "LoRA": lora, "GGUF": packed, "registry": exported, "table of captions": tables, "captions beside clips": sidecars,
    "record for --from": records, "batch": lists, "unfinished video": resumes, "dataset": datasets,
    "checkpoint": checkpoints,
}  # fmt: skip
KINDS = tuple(MAKERS)
