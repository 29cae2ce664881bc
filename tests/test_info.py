"""`info` of every kind of file and folder that people have: in words, and the same as JSON."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from sora_cli import cli, media
from sora_cli.shot import Shot


def told(capsys: pytest.CaptureFixture[str], name: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What info says as JSON, and its rows; none of it is Python."""
    capsys.readouterr()
    assert cli.run(["info", str(name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.run(["info", str(name)]) == 0
    table = capsys.readouterr().out
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|[{}]|\['|Path\(", table), table
    return found, {line[:12].strip(): line[13:] for line in table.splitlines()}


def test_footage_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("-f", "lavfi", "-i", "testsrc2=d=1:s=64x48:r=30", "-f", "lavfi", "-i", "sine=d=1:sample_rate=44100")
    colours = "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc,format=yuv420p10le"
    subprocess.run([media.ffmpeg(), "-v", "error", *words, "-vf", colours, "-c:v", "ffv1", "-c:a", "flac",
                    tmp_path / "hdr.mkv"], check=True)  # fmt: skip
    found, rows = told(capsys, tmp_path / "hdr.mkv")
    assert (found["hdr"], found["sound"], found["frames"]) == ("PQ", [44100], 30)
    assert rows["colours"] == "4:2:0, 10 bits, HDR (PQ)" and rows["sound"] == "1 track, 44100 Hz"
    assert rows["length"] == "1 s: 30 frames, 30 a second" and "does not say how" in rows["made from"]

    subprocess.run([media.ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=d=0.2:s=64x48:r=10", "-pix_fmt",
                    "yuv420p", tmp_path / "upright.mp4"], check=True)  # fmt: skip
    subprocess.run([media.ffmpeg(), "-v", "error", "-display_rotation", "90", "-i", tmp_path / "upright.mp4",
                    "-c", "copy", tmp_path / "turned.mp4"], check=True)  # fmt: skip
    found, rows = told(capsys, tmp_path / "turned.mp4")
    assert found["rotated"] and rows["picture"] == "48x64, rotated by a tag in the file"
    assert rows["length"] == "0.2 s: 2 frames, 10 a second"


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    for name in ("a.jpg", "a.webp", "a.bmp", "b1.png"):
        picture.save(tmp_path / name)
        _, rows = told(capsys, tmp_path / name)
        assert (rows["kind"], rows["picture"]) == ("image", "64x48")
    assert told(capsys, tmp_path / "b%d.png")[1]["kind"] == "1 image, numbered"
    picture.save(tmp_path / "m.webp", save_all=True, append_images=[picture.rotate(180)], duration=100)
    assert told(capsys, tmp_path / "m.webp")[1]["length"] == "0.2 s: 2 frames, 10 a second"
    (tmp_path / "c.heic").write_bytes(b"x")
    assert cli.run(["info", str(tmp_path / "c.heic")]) == 2
    assert "convert it to .jpg" in capsys.readouterr().err


def test_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = "transformer.blocks.0.attn1.to_q"
    save_file({f"{block}.lora_A.weight": torch.zeros(4, 8), f"{block}.lora_B.weight": torch.zeros(8, 4)},
              tmp_path / "style.safetensors", {"base_model": "wan2.1-1.3b"})  # fmt: skip
    found, rows = told(capsys, tmp_path / "style.safetensors")
    assert (found["kind"], found["ranks"]) == ("lora", [4])
    assert rows["kind"].startswith("LoRA for 1 layer,") and (rows["rank"], rows["made for"]) == ("4", "wan2.1-1.3b")
    pocket = Path(cli.__file__).parent.parent / "pocket"
    assert told(capsys, pocket / "dit.safetensors")[1]["kind"] == "network of sora-cli: dit"
    save_file({"x": torch.zeros(3)}, tmp_path / "odd.safetensors")
    assert cli.run(["info", str(tmp_path / "odd.safetensors")]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("run")
    (run / "checkpoint-0000012").mkdir(parents=True)
    (run / "identity.json").write_text('{"stage": "dit", "preset": "nano"}')
    (run / "log.jsonl").write_text('{"step": 12, "loss": 0.25, "speed": 3}\n')
    _, rows = told(capsys, run)
    assert (rows["kind"], rows["reached"]) == ("training run of dit nano", "step 12, loss 0.25")
    Path("cat.mp4.resume").mkdir()
    Path("cat.mp4.resume/window-00000.safetensors").write_bytes(b"x")
    assert told(capsys, "cat.mp4.resume")[1]["finished"] == "1 window"
    Path("clips").mkdir()
    Image.new("RGB", (8, 8)).save("clips/a.png")
    assert "sora-cli data build clips" in told(capsys, "clips")[1]["use"]


def test_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny

    tiny.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["generate", "a cat", "--frames", "9", "--res", "64x48", "-o", "a.gif", *tiny.QUICK]) == 0
    assert told(capsys, "a.gif")[1]["made from"] == "as a.json says"
    assert cli.run(["extend", "a.gif", "--after", "0.3", "-o", "b.mp4", *tiny.QUICK]) == 0
    _, rows = told(capsys, "b.json")
    assert rows["kind"] == "record of b.mp4, made by `extend`" and rows["file"] == "b.json"
    assert rows["prompt"] == "none"
    assert re.search(r"\d\.\d: (cannot be seen|may be seen|the join shows|stands)", str(rows))


@pytest.mark.parametrize("odd", [
    {"frames": "x"}, {"wall": "1"}, {"scores": [1]}, {"scores": {"join": None}}, {"verb": ["x"]}, {"output": 5},
])  # fmt: skip
def test_a_record_of_others_is_one_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           odd: dict[str, object]) -> None:  # fmt: skip
    record = {"verb": "generate", "shot": {"prompt": "a cat"}, "kind": "video", "file": "/etc/passwd", "scores": None}
    file = tmp_path / "a.json"
    file.write_text("\ufeff" + json.dumps(record))
    found, rows = told(capsys, file)
    assert (found["kind"], found["file"], rows["prompt"]) == ("record", str(file), "a cat")
    file.write_text(json.dumps(record | odd))
    assert cli.run(["info", str(file)]) == 2 and "not the record of a video" in capsys.readouterr().err


def test_a_run_of_others_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "identity.json").write_text('{"stage": ["dit"], "preset": 5}')
    (tmp_path / "log.jsonl").write_text('{"step": "x", "loss": [], "kind": "video", "speed": 3}\n')
    found, rows = told(capsys, tmp_path)
    assert found["kind"] == "run" and found["speed"] == 3 and "reached" not in rows


def test_why_a_shot_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = PngInfo()
    tags.add_itxt("sora", '{"prompt": "a cat", "fps": 500}')
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=tags)
    assert cli.run(["generate", "--from", str(tmp_path / "a.png")]) == 2
    assert "a.png does not say how it was made: fps is 500; it must be from 1 to 120" in capsys.readouterr().err


@pytest.mark.parametrize(("shape", "ranks"), [((), []), ((4,), [4]), ((4, 8, 3, 3), [4]), ((0, 8), [0])])
def test_a_lora_of_any_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...],
                             ranks: list[int]) -> None:  # fmt: skip
    part = {f"transformer.blocks.0.ffn.{half}.weight": torch.zeros(shape) for half in ("lora_A", "lora_B")}
    save_file(part, tmp_path / "a.safetensors")
    found, rows = told(capsys, tmp_path / "a.safetensors")
    assert found["kind"] == "lora" and found["ranks"] == ranks and ("whole" in rows["rank"]) == (not ranks)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_every_container_says_how_a_video_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                   name: str) -> None:  # fmt: skip
    format = tiny.y4m_format()
    tiny.write(tmp_path / name, format, tiny.noise(format, 2), {"sora": Shot("a cat surfing", frames=2).to_json()})
    assert told(capsys, tmp_path / name)[1]["prompt"] == "a cat surfing"
