"""What strangers wrote, at random: every reader answers, or refuses in one line, in bounded memory, and writes nothing.

A few seconds in all. SORA_FUZZ=1000 tries so many examples of each instead, and others every time.
"""

import json
import os
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sora_cli import registry
from sora_cli.cli import lines
from sora_cli.cli.describing import describe, shot_in
from sora_cli.dataset import beside, captions, shards
from sora_cli.errors import Failed, SoraError
from sora_cli.files import gguf_header, headers, published, sniff, weights
from sora_cli.media import damage, kinds, probing, y4m
from sora_cli.prompts.llm import answers, client
from sora_cli.registry import layouts, lora
from sora_cli.shot import Lora, Shot
from sora_cli.storage import latent_file

MOST = int(os.environ.get("SORA_FUZZ", 0))
settings.register_profile(
    "quick", max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "long", max_examples=MOST or 60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
FUZZ = settings.get_profile("long" if MOST else "quick")
MEMORY = 64_000_000  # bytes, for inputs of some kilobytes

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just(10**400)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
BYTES = st.binary(max_size=2000)


def number_of(value: int) -> bytes:
    return value.to_bytes(8, "little")


@contextmanager
def in_bounds(folder: Path | None = None) -> Iterator[None]:
    """Nothing but a SoraError of one line gets out, memory stays small, and a folder keeps what is in it."""
    before = sorted(folder.rglob("*")) if folder else []
    tracemalloc.start()
    try:
        yield
    except SoraError as error:
        assert str(error).strip() and "\n" not in str(error).strip() and len(str(error)) < 2000
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY
    assert folder is None or sorted(folder.rglob("*")) == before


def dumped(value: Any) -> bytes:
    with suppress(ValueError):
        return json.dumps(value).encode()
    return b"{}"


# ---- footage ----------------------------------------------------------------------------------------------

WORD = st.sampled_from(
    [
        "Input #0, mov,mp4, from 'a':",
        "  Duration: 00:00:01.00, start: 0.000000, bitrate: 9 kb/s",
        "  Stream #0:0: Video: ",
        "  Stream #0:1(und): Audio: aac (LC), 48000 Hz, stereo",
        "h264 (High) (avc1 / 0x31637661)",
        "yuv420p(tv, bt709)",
        "yuv420p10le(pc, bt2020nc/bt2020/smpte2084, top first)",
        "64x48 [SAR 1:1 DAR 4:3]",
        "24 fps, 24 tbr, 1k tbn",
        "99999999x1",
        "1e9 fps",
        "0x0",
        "Video: none, none",
        "  Duration: N/A, start: N/A",
        "(attached pic)",
        "\n",
        ", ",
    ]
)


@FUZZ
@given(st.lists(WORD | st.text(max_size=12), max_size=14).map("".join))
def test_the_words_of_ffmpeg(told: str) -> None:
    with in_bounds():
        probing.seconds_of(told)
        probing.start_of(told, told)
        probing.parse_metadata(told)
        probing.parse_others(f" Stream #0:0: Video: h264\n{told}")
        picture = probing.parse_stream("mov", told, {})
        assert picture is None or (picture.fps >= 0 and picture.width >= 0)


@FUZZ
@given(
    st.binary(max_size=300) | st.text(max_size=200).map(str.encode),
    st.sampled_from([b"W64 H48 F24:1 ", b"W8192 H8192 F240:1 ", b"W1 H1 F1:999999999 C444alpha ", b""]),
    BYTES,
)
def test_y4m(line: bytes, good: bytes, rest: bytes) -> None:
    stream = BytesIO(b"YUV4MPEG2 " + good + line + b"\n" + rest)
    with in_bounds():
        format = y4m.read_format(stream)
        assert format.frame_bytes > 0 and len(format.header()) <= max(128, 60 + len(good))
        for frame in y4m.read_frames(stream, format, "it"):
            assert len(frame) == format.frame_bytes


@pytest.mark.parametrize("container", damage.WALKS)
def test_forms_of_containers(container: str) -> None:
    beginnings = st.sampled_from(BEGINNINGS[container])

    anything = beginnings | st.binary(max_size=300) | st.integers(0, 2**64 - 1).map(number_of)

    @FUZZ
    @given(beginnings, st.lists(anything, max_size=9))
    def tried(head: bytes, parts: list[bytes]) -> None:
        with in_bounds():
            assert isinstance(damage.WALKS[container](BytesIO(head + b"".join(parts))), str)

    tried()


BEGINNINGS = {
    "asf": [bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), damage.ASF_FILE, damage.ASF_DATA, b"\x20" + bytes(7)],
    "avi": [b"RIFF\xff\0\0\0AVI ", b"LIST\x80\0\0\0movi", b"00dc\x04\0\0\0abcd", b"LIST\x0c\0\0\0rec "],
    "gif": [b"GIF89a", b"!\xf9\x04", b",", b";"],
    "matroska,webm": [b"\x1a\x45\xdf\xa3\x80", damage.MATROSKA_SEGMENT + b"\x01" + b"\xff" * 7, b"\xec\x81\0",
                      b"\x1f\x43\xb6\x75\x88" + damage.MATROSKA_CRC],
    "mpeg": [b"\0\0\1\xba\x44" + bytes(9), b"\0\0\1\xba\x21" + bytes(7), b"\0\0\1\xe0\0\x01a", bytes(20)],
    "mpegts": [(b"\x47\x40\0\x10" + bytes(184)) * 9, b"\x47\x41\0\x31\xff" + bytes(183),
               b"\x47\x41\0\x12" + bytes(184)],
    "mxf": [damage.MXF_KEY + bytes(12) + b"\x83\0\0\x01a", damage.MXF_KEY],
    "ogg": [b"OggS\0\x02" + bytes(20) + b"\x01\x02ab", b"OggS\0\0" + bytes(12) + b"\x01" + bytes(8)],
}  # fmt: skip


# ---- weights ----------------------------------------------------------------------------------------------

TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "F8_E4M3", "X", "I64"]) | JSON,
        "shape": st.lists(st.integers(-1, 2**50), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-1, 2**60), min_size=2, max_size=2) | JSON,
    }
)


def framed(header: bytes, length: int | None, data: bytes) -> bytes:
    return ((len(header) if length is None else length) % 2**64).to_bytes(8, "little") + header + data


SAFETENSORS = st.builds(
    framed,
    st.one_of(BYTES, st.dictionaries(st.text(max_size=8), TENSOR | JSON, max_size=3).map(dumped)),
    st.none() | st.integers(0, 2**64 - 1),
    BYTES,
)


@pytest.mark.parametrize(
    "reader",
    [
        headers.contents,
        weights.read_header,
        latent_file.read_layout,
        published.about,
        sniff.instead,
        lambda path: lora.check([Lora(str(path))]),
        lambda path: lora.note(Lora(str(path))),
        describe,
    ],
)
def test_safetensors(reader: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    @FUZZ
    @given(SAFETENSORS)
    @example(framed(b"{" * 5000, None, b""))
    @example(framed(b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}', None, b""))
    def tried(data: bytes) -> None:
        path.write_bytes(data)
        with in_bounds(tmp_path):
            reader(path)

    tried()


def number(value: int, size: int) -> bytes:
    return (value % 256**size).to_bytes(size, "little")


GGUF = st.builds(
    lambda version, count, entries, data: b"GGUF" + number(version, 4) + number(count, 8) + number(entries, 8) + data,
    st.sampled_from([2, 3, 0, 2**31]),
    st.integers(0, 3) | st.integers(0, 2**64 - 1),
    st.integers(0, 3) | st.integers(0, 2**64 - 1),
    st.lists(
        BYTES
        | st.integers(0, 2**64 - 1).map(lambda n: number(n, 8))
        | st.integers(0, 13).map(lambda n: number(n, 4))
        | st.sampled_from([number(1, 8) + b"a", number(9, 4) + number(8, 4)]),
        max_size=12,
    ).map(b"".join),
)


def test_gguf(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"

    @FUZZ
    @given(GGUF | BYTES)
    def tried(data: bytes) -> None:
        path.write_bytes(data)
        with in_bounds(tmp_path):
            gguf_header.contents(path)
            published.about(path)

    tried()


# ---- texts ------------------------------------------------------------------------------------------------

ROW = st.dictionaries(
    st.sampled_from(["file", "caption", "text", "file_name", "x"]), JSON | st.text(max_size=30), max_size=4
)
TABLE = st.one_of(
    BYTES,
    st.lists(ROW, max_size=4).map(lambda rows: b"\n".join(map(dumped, rows))),
    st.lists(st.lists(st.text(max_size=9), max_size=4).map(",".join), max_size=5).map(
        lambda rows: "\n".join(["file,caption", *rows]).encode(errors="replace")
    ),
    st.text(max_size=200).map(lambda text: text.encode("utf-16", errors="replace")),
)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_tables_of_captions(name: str, tmp_path: Path) -> None:
    @FUZZ
    @given(TABLE)
    def tried(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        with in_bounds(tmp_path):
            rows, _ = captions.read_table(tmp_path / name)
            assert all("\n" not in caption for *_, caption in rows)

    tried()


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.caption"])
def test_captions_beside_clips(name: str, tmp_path: Path) -> None:
    @FUZZ
    @given(TABLE | JSON.map(dumped))
    @example(b"[" * 100_000)
    def tried(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        with in_bounds(tmp_path):
            said = beside.read(tmp_path / name)
            assert "\n" not in said.text and not (said.text and said.wrong)

    tried()


@pytest.mark.parametrize("name", ["l.jsonl", "l.csv", "l.txt"])
def test_lists_of_jobs(name: str, tmp_path: Path) -> None:
    @FUZZ
    @given(TABLE)
    def tried(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        with in_bounds(tmp_path):
            for line in lines.lines(name, lines.read(str(tmp_path / name)), ["prompt", "seed", "res"]):
                if not line.wrong:
                    lines.grid(line, ())

    tried()


def test_names_of_files() -> None:
    @FUZZ
    @given(st.text(max_size=40))
    def tried(name: str) -> None:
        with in_bounds():
            kinds.is_footage(name)
            kinds.foreign(name)
            kinds.unread(name)

    tried()


SHOT = st.dictionaries(
    st.sampled_from(
        [
            "prompt",
            "captions",
            "anchors",
            "cues",
            "loras",
            "model",
            "width",
            "height",
            "fps",
            "frames",
            "seed",
            "steps",
            "plan",
            "fit",
            "loop",
            "zzz",
        ]
    ),
    JSON,
    max_size=8,
)


def test_records_of_shots(tmp_path: Path) -> None:
    path = tmp_path / "it.json"

    @FUZZ
    @given(SHOT | JSON)
    def tried(shot: Any) -> None:
        with in_bounds():
            Shot.from_json(dumped(shot).decode())
        path.write_bytes(dumped({"shot": shot}))
        with in_bounds(tmp_path):
            shot_in(path)
        with in_bounds():
            latent_file.carried(dumped(shot).decode())

    tried()


def test_indexes_of_datasets(tmp_path: Path) -> None:
    @FUZZ
    @given(st.lists(JSON | st.just({"format": shards.FORMAT, "samples": 1}), max_size=3), BYTES)
    def tried(rows: list[Any], tail: bytes) -> None:
        (tmp_path / shards.INDEX).write_bytes(b"".join(dumped(row) + b"\n" for row in rows) + tail)
        with in_bounds(tmp_path):
            shards.read_index(tmp_path)

    tried()


# ---- answers of servers -----------------------------------------------------------------------------------

PIECE = st.sampled_from(
    [
        "<think>",
        "</think>",
        "```",
        "```json\n",
        '{"caption": "',
        '"}',
        "Sure! ",
        "**",
        "I'm sorry",
        "\n",
        "<|channel|>final<|message|>",
        "a boat ",
        "the boat and ",
        "[/INST]",
        "\u202e",
        "\ufffd",
    ]
)


@FUZZ
@given(st.lists(PIECE | st.text(max_size=12), max_size=14).map("".join), st.sampled_from(["stop", "length", ""]))
@example("<think>" * 2000, "stop")
@example('{"a":' * 10_000, "stop")
@example("the boat and " * 4000, "stop")
def test_answers_of_language_models(answer: str, finish: str) -> None:
    with in_bounds():
        text = answers.sentence(answer, finish, "it")
        assert text and "\n" not in text and len(text) <= answers.LONGEST


@FUZZ
@given(JSON | st.fixed_dictionaries({"choices": JSON | st.lists(st.fixed_dictionaries({"message": JSON}), max_size=2)}))
def test_replies_of_servers(reply: Any) -> None:
    server = client.Server("http://localhost:1/v1", "m", 1)
    with in_bounds(), client.protocol(server):
        found = client.said(reply, server)
        message = found["choices"][0]["message"]
        assert isinstance(client.text_of(message["content"]), str)
    with in_bounds():
        client.reason(dumped(reply))
        client.pause_of(str(reply)[:30], 2)


# ---- models -----------------------------------------------------------------------------------------------


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "0" if value is None else json.dumps(value)


FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "about",
            "license",
            "like",
            "width",
            "height",
            "frames",
            "fps",
            "steps",
            "guidance",
            "parts",
            "files",
            "folder",
            "kind",
            "window",
            "context",
        ]
    ),
    JSON,
    max_size=7,
)


def test_registries(tmp_path: Path) -> None:
    path = tmp_path / registry.EXPORTED

    @FUZZ
    @given(FIELDS | JSON, st.text(max_size=5))
    def tried(model: Any, tail: str) -> None:
        path.write_text(f"mine = {toml(model)}\n{tail}", encoding="utf-8", errors="replace")
        with in_bounds(tmp_path), suppress(tomllib.TOMLDecodeError, UnicodeError):
            layouts.of_export(str(tmp_path), tmp_path)

    tried()


def test_configurations(tmp_path: Path) -> None:
    from sora_cli.pipelines import loading

    path = tmp_path / "config.json"

    @FUZZ
    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    "num_layers",
                    "eps",
                    "z_dim",
                    "base_dim",
                    "dim_mult",
                    "latents_mean",
                    "latents_std",
                    "num_res_blocks",
                    "temperal_downsample",
                    "in_channels",
                    "ffn_dim",
                ]
            ),
            JSON,
        )
        | JSON
    )
    def tried(config: Any) -> None:
        path.write_bytes(dumped(config))
        for kind in (loading.VAE, loading.DIT, loading.TEXT):
            with in_bounds(tmp_path):
                loading.configured(tmp_path, kind)  # type: ignore[arg-type]

    tried()


def test_the_bounds_are_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), in_bounds(tmp_path):
        (tmp_path / "a").write_text("x")
    with pytest.raises(AssertionError), in_bounds():
        bytes(2 * MEMORY)
    with pytest.raises(AssertionError), in_bounds():
        raise Failed("two\nlines")
    with pytest.raises(ValueError, match="x"), in_bounds():
        raise ValueError("x")
