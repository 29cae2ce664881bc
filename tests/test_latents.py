"""Files of latents: what is saved comes back, and no file, however made, does worse than one line."""

import json
import math
import os
import struct
import tracemalloc
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sora_cli import registry
from sora_cli.errors import Failed, SoraError
from sora_cli.files import weights
from sora_cli.shot import Shot
from sora_cli.storage import latent_file
from sora_cli.storage.latent_file import Header

HEADER = Header("pocket", "ab" * 32, 1280, 720, 24.0, 9, lead=2, shot=Shot("a cat").to_json(), video="0f" * 32)
SHAPE = (6, 4, 12, 20)  # 1 + 4 * 3 frames hold 2 + 9 of them, on a canvas of 320x192


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "pocket"])
def test_latents_name_the_model_that_decodes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_file, "vae_of", lambda model: "ab" * 32)
    assert Header.of(registry.entry(name), 256, 144, 24.0, 9).model == name
    assert latent_file.plainly("hf:Some-One/Wan_2.1") == "hf-Some-One-Wan-2-1"


def numbers(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("latents") / "a.safetensors"
    latent_file.save(path, numbers(), HEADER)
    return path.read_bytes()


def written(path: Path, head: object, numbers_: bytes = b"") -> Path:
    """A safetensors file with any header at all."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers_)
    return path


def changed(whole: bytes, **tags: str | None) -> tuple[dict[str, Any], bytes]:
    """The header of a good file with some of its fields changed, or without them (None); its numbers."""
    (length,) = struct.unpack("<Q", whole[:8])
    head = json.loads(whole[8 : 8 + length])
    told = head["__metadata__"] | tags
    head["__metadata__"] = {name: value for name, value in told.items() if value is not None}
    return head, whole[8 + length :]


# ---- round trips ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    latent_file.save(path, numbers(dtype), HEADER)
    found, header = latent_file.load(path)
    assert header == HEADER == latent_file.read_header(path)
    assert found.dtype == dtype and torch.equal(found, numbers(dtype))
    assert torch.equal(load_file(path)["latents"], numbers(dtype))
    assert Shot.from_json(header.shot) == Shot("a cat")
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_part_is_that_part(tmp_path: Path) -> None:
    latent_file.save(tmp_path / "a.safetensors", numbers(), HEADER)
    found, _ = latent_file.load(tmp_path / "a.safetensors", 1, 2)
    assert torch.equal(found, numbers()[:, 1:3])
    assert torch.equal(latent_file.load(tmp_path / "a.safetensors", 3)[0], numbers()[:, 3:])


@given(
    header=st.builds(
        Header,
        model=st.sampled_from(["pocket", "wan2.2-ti2v-5b"]),
        vae=st.text("0123456789abcdef", min_size=64, max_size=64),
        width=st.integers(300, 400).map(lambda n: 2 * n),
        height=st.integers(300, 400).map(lambda n: 2 * n),
        fps=st.floats(1, 120),
        frames=st.integers(1, 432_000),
        lead=st.integers(0, 3),
        cyclic=st.booleans(),
        shot=st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_every_header_survives_its_strings(header: Header) -> None:
    tags = json.loads(json.dumps(latent_file.to_strings(header)))
    assert latent_file.from_strings(tags) == header


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("lead", [0, 1, 2, 3])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_span_covers_its_frames_and_no_group_more(cyclic: bool, lead: int, group: int) -> None:
    """Against the list of all frames of all latents, written out."""
    header = replace(HEADER, frames=22, lead=lead, cyclic=cyclic)
    made = [[4 * k + i for i in range(4)] if cyclic else [0] if k == 0 else [4 * k - 3 + i for i in range(4)]
            for k in range(header.latents)]  # fmt: skip
    assert lead + 22 <= sum(map(len, made)) < lead + 22 + 4
    for first in range(22):
        for end in range(first + 1, 23):
            span = header.span(range(first, end), group)
            groups = [[frame for k in some for frame in made[k]] for some in span.groups]
            shown = list(chain.from_iterable(groups))[span.skip :]
            assert shown[: end - first] == list(range(first + lead, end + lead))
            assert first + lead in groups[0] and end - 1 + lead in groups[-1]
            assert all(some.start % group == 0 and len(some) <= group for some in span.groups)
            start = span.groups[0].start
            assert list(span.before)[-1:] == ([start - 1] if start else [header.latents - 1] if cyclic else [])


# ---- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "complaint"),
    [
        ({"format": None}, "sora-latents-1"),
        ({"format": "sora-latents-2"}, "sora-latents-1"),
        ({"vae": None, "fps": None}, "lacks vae, fps"),
        ({"vae": "../../etc/passwd"}, "is not a SHA-256 hash"),
        ({"video": "/etc/passwd"}, "is not a SHA-256 hash"),
        ({"video": "AB" * 32}, "is not a SHA-256 hash"),
        ({"model": "../pocket"}, "is not a model name"),
        ({"model": "a/b"}, "is not a model name"),
        ({"model": ""}, "is not a model name"),
        ({"model": "\x1b[2J"}, r"'\\x1b[2J' is not a model name"),
        ({"model": "p" * 65}, "is not a model name"),
        ({"width": "-320"}, "width cannot be '-320'"),
        ({"width": "1e3"}, "width cannot be '1e3'"),
        ({"width": "٣٢٠"}, "width cannot be"),
        ({"width": "9" * 400}, "width cannot be '999"),
        ({"height": "100000"}, "out of range"),
        ({"height": "721"}, "odd side"),
        ({"fps": "nan"}, "fps cannot be 'nan'"),
        ({"fps": "0"}, "from 1 to 120"),
        ({"frames": "0"}, "frames is 0"),
        ({"frames": "999999999"}, "frames is 1e\\+09"),
        ({"frames": "300"}, "300 frames of 1280x720 are channels x 77x12x20"),
        ({"lead": "4"}, "lead is 4"),
        ({"cyclic": "True"}, "cyclic cannot be 'True'"),
        ({"cyclic": "true"}, "channels x 3x12x20"),
        ({"width": "720"}, "channels x 4x16x16"),
    ],
)
def test_fields_that_cannot_be(tmp_path: Path, whole: bytes, tags: dict[str, str | None], complaint: str) -> None:
    path = written(tmp_path / "a.safetensors", *changed(whole, **tags))
    with pytest.raises(Failed, match=complaint.replace("[", r"\[")) as caught:
        latent_file.read_header(path)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"shape": [6, 4, 12, 2**40]}, "latents has 23040 bytes instead of 1266637395197952"),
        ({"shape": [2**60, 4, 12, 20]}, "entry for latents is not a tensor"),
        ({"shape": [6, 4, -12, -20]}, "entry for latents is not a tensor"),
        ({"shape": [6, 4, 12, 20.0]}, "entry for latents is not a tensor"),
        ({"shape": [6, 4, 12]}, "latents has 23040 bytes instead of 1152"),
        ({"shape": [0, 4, 12, 20]}, "latents has 23040 bytes instead of 0"),
        ({"shape": [3, 4, 12, 20]}, "latents has 23040 bytes instead of 11520"),
        ({"shape": [6, 2, 24, 20]}, "latents are 6x2x24x20, but those of"),
        ({"shape": "6"}, "entry for latents is not a tensor"),
        ({"dtype": "F64"}, "latents has 23040 bytes instead of 46080"),
        ({"dtype": "I32"}, "type 'I32'"),
        ({"dtype": "F16"}, "latents has 23040 bytes instead of 11520"),
        ({"dtype": ["F32"]}, "entry for latents is not a tensor"),
        ({"data_offsets": [0, 8]}, "latents has 8 bytes instead of 23040"),
        ({"data_offsets": [-8, 23032]}, "entry for latents is not a tensor"),
        ({"data_offsets": [0, 2**62]}, "entry for latents is not a tensor"),
        ({"data_offsets": None}, "entry for latents is not a tensor"),
    ],
)
def test_shapes_that_cannot_be(tmp_path: Path, whole: bytes, entry: dict[str, Any], complaint: str) -> None:
    head, data = changed(whole)
    head["latents"] |= entry
    with pytest.raises(Failed, match=complaint):
        latent_file.read_header(written(tmp_path / "a.safetensors", head, data))


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b"9" * 9_999, b'{"a": 1}'])
def test_heads_that_are_none(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(Failed, match="is not a file of latents"):
        latent_file.read_header(written(tmp_path / "a.safetensors", head))


@pytest.mark.parametrize("length", [2**20 * 40, 2**31, 2**62, 2**63, 2**64 - 1])
def test_a_huge_header_is_not_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length))
    os.truncate(path, min(length + 8, 2**33))  # a sparse file: large in name only
    tracemalloc.start()
    with pytest.raises(Failed, match=r"truncated|at most 1000000 are allowed"):
        latent_file.read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_other_safetensors_are_no_latents(tmp_path: Path) -> None:
    save_file({"latents": numbers()}, tmp_path / "a.safetensors")
    with pytest.raises(Failed, match="does not say sora-latents-1"):
        latent_file.read_header(tmp_path / "a.safetensors")
    save_file({"latents": numbers(), "more": numbers()}, tmp_path / "b.safetensors", latent_file.to_strings(HEADER))
    with pytest.raises(Failed, match="one tensor called latents"):
        latent_file.read_header(tmp_path / "b.safetensors")


def test_no_file_and_no_permission(tmp_path: Path) -> None:
    with pytest.raises(SoraError, match="there is no file"):
        latent_file.read_header(tmp_path / "a.safetensors")
    with pytest.raises(SoraError, match="there is no file"):
        latent_file.read_header(tmp_path)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_poison_is_neither_written_nor_read(tmp_path: Path, poison: float) -> None:
    bad = numbers()
    bad[5, 3, 7, 7] = poison
    with pytest.raises(Failed, match="not finite; try --dtype float32"):
        latent_file.save(tmp_path / "a.safetensors", bad, HEADER)
    assert os.listdir(tmp_path) == []
    weights.save(tmp_path / "a.safetensors", {"latents": bad}, latent_file.to_strings(HEADER))
    with pytest.raises(Failed, match="not finite"):
        latent_file.load(tmp_path / "a.safetensors")
    assert latent_file.load(tmp_path / "a.safetensors", 0, 3)[0].isfinite().all()


def test_another_autoencoder_is_named() -> None:
    with pytest.raises(SoraError, match=r"abababababab of pocket, but that of pocket is [0-9a-f]{12}"):
        latent_file.check_vae("a.safetensors", HEADER, registry.entry("pocket"))
    pocket = registry.entry("pocket")
    latent_file.check_vae("a.safetensors", replace(HEADER, vae=latent_file.vae_of(pocket)), pocket)


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 99_999, '{"prompt": 7}', '{"prompt": "x", "seed": 1' + "0" * 400 + "}", "9" * 5000]
)
def test_a_shot_that_is_none(text: str) -> None:
    with pytest.raises(SoraError, match=r"not a shot|seed is 1000"):
        Shot.from_json(text)
    assert latent_file.carried(text) == ""


# ---- any file at all --------------------------------------------------------------------------------------

MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(mutations=MUTATIONS, in_head=st.booleans(), kept=st.floats(0, 1))
def test_mutated_files_are_one_line_or_right(
    tmp_path: Path, whole: bytes, mutations: list[tuple[float, int, bytes]], in_head: bool, kept: float
) -> None:
    """Bytes replaced, inserted and taken out anywhere (half of the time in the header), and the end cut off."""
    data = bytearray(whole)
    for where, length, put in mutations:
        at = int(where * (1200 if in_head else len(data)))
        data[at : at + length] = put
    refused_or_right(tmp_path / "a.safetensors", bytes(data[: max(8, int(len(data) * kept**0.2))]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    field=st.sampled_from([*latent_file.to_strings(HEADER), "shape", "dtype", "data_offsets", "latents"]), value=JSON
)
def test_any_json_in_any_field(tmp_path: Path, whole: bytes, field: str, value: object) -> None:
    head, data = changed(whole)
    place = next((p for p in (head["__metadata__"], head["latents"]) if field in p), head)
    place[field] = value
    written(path := tmp_path / "b.safetensors", head, data)
    refused_or_right(path, path.read_bytes())


def refused_or_right(path: Path, data: bytes) -> None:
    """Reading `data` either raises one short, printable line, or gives finite latents of the header's shape."""
    path.write_bytes(data)
    try:
        found, header = latent_file.load(path)
    except SoraError as error:
        line = " ".join(str(error).split())
        assert 0 < len(line) < 1000 and path.name in line
    else:
        assert found.isfinite().all() and found.shape[1] == header.latents
