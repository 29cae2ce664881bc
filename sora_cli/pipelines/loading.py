"""The parts of a published Wan model, from a folder with a config.json or from a single file without one.

A folder is as diffusers and transformers write it. A single file may have the authors' names for the parameters, as
repackages do; which network it is its shapes tell, and only those of `presets.py` are told apart. Nothing that is
loaded is trained. `streamed` leaves the blocks on disk, from where each is read as it comes up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from sora_cli.errors import SoraError, no_op
from sora_cli.files.headers import Stored
from sora_cli.files.published import (
    Progress,
    Rename,
    about,
    architecture,
    files_of,
    has_config,
    put,
    read_config,
    survey,
    weights_in,
)
from sora_cli.models.wan import names
from sora_cli.models.wan.configs import MOST_LAYERS, TinyConfig, Umt5Config, WanConfig, WanVaeConfig, checked
from sora_cli.models.wan.dit import WanDit
from sora_cli.models.wan.text import Umt5
from sora_cli.models.wan.tiny_decoder import TinyDecoder, needed
from sora_cli.models.wan.vae import WanVae
from sora_cli.pipelines import presets
from sora_cli.placement.offload import Rows, leave_on_disk
from sora_cli.placement.packed import pack
from sora_cli.placement.sizes import built
from sora_cli.registry import families
from sora_cli.registry.lora import changes
from sora_cli.shot import Lora

C = TypeVar("C")
N = TypeVar("N", bound=nn.Module)

IN_FLOAT = {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"}  # parts of names, as diffusers has them


@dataclass(frozen=True)
class Kind(Generic[C, N]):
    """A kind of network, and what is known of those that come without a configuration."""

    what: str
    build: Callable[[C], N]
    from_hub: Callable[[Mapping[str, Any]], C]
    presets: Mapping[str, tuple[C, Rename]]  # by the name users know; and how its single files name the parameters
    distinguishing: tuple[str, ...]  # parameters by whose shapes, or absence, the presets differ
    architectures: tuple[str, ...]  # that a GGUF says it is of; several programs say nothing


DIT = Kind(
    "transformer",
    WanDit,
    WanConfig.from_hub,
    {name: (config, names.DIT.original_to_ours) for name, config in presets.DITS.items()},
    ("patch_embedding.weight", "fps_embedding.weight"),
    ("", "pig", "wan"),
)
VAE = Kind(
    "autoencoder",
    WanVae,
    WanVaeConfig.from_hub,
    {
        "Wan 2.1": (presets.VAE21, names.VAE21.original_to_ours),
        "Wan 2.2": (presets.VAE22, names.VAE22.original_to_ours),
    },
    ("encoder.conv_in.weight", "decoder.conv_in.weight"),
    ("", "pig"),
)
TEXT = Kind(
    "text encoder",
    Umt5,
    Umt5Config.from_hub,
    {"UMT5-XXL": (presets.UMT5, partial(names.text_to_ours, tied=False))},
    (names.TABLE,),
    ("", "pig", "t5", "t5encoder"),
)
TINY = Kind(
    "tiny decoder",
    TinyDecoder,
    lambda config: TinyConfig(**config),
    {"taew2_1": (TinyConfig(16, 1), needed), "taew2_2": (TinyConfig(48, 2), needed)},
    ("decoder.1.weight", "decoder.22.weight"),
    ("",),
)


def check(paths: Mapping[str, Path], loras: Sequence[Lora] = ()) -> None:
    """Check parts, by role, and LoRAs against their networks, by headers alone; errors are those of `load_dit`."""
    experts = {"dit": "high", "dit_low": "low"} if "dit_low" in paths else {"dit": ""}
    kinds: dict[str, Kind] = dict.fromkeys(experts, DIT) | {"vae": VAE}
    for role, kind in kinds.items():
        if role in paths:
            files = files_of(paths[role])
            config, rename = which(paths[role], files, kind)
            survey_with(loras if role in experts else (), built(config), files, rename, experts.get(role, ""))
    if "text" in paths:
        files = files_of(paths["text"])
        survey_text(files, built(which(paths["text"], files, TEXT)[0]))


def dit_config(part: Path) -> WanConfig:
    return which(part, files_of(part), DIT)[0]


def load_dit(
    part: Path, device: torch.device, dtype: torch.dtype, streamed: bool = False, progress: Progress = no_op,
    loras: Sequence[Lora] = (), unpacked: bool = False, expert: str = "",
) -> WanDit:  # fmt: skip
    """The transformer, or one of two (high, low), with LoRAs merged into it; norms, the timestep's embedding and the
    modulation are float32 whatever the dtype. Matrices that are stored in few bits stay so, unless they are to be
    `unpacked` at once.

    SoraError if it is another network than is supported, Failed if files are damaged."""
    files = files_of(part)
    network, rename = bare(part, files, DIT)
    locations = survey_with(loras, network, files, rename, expert)
    if not unpacked:
        locations = pack(network, locations, dtype, in_float)
    if streamed:
        locations = leave_on_disk(network, "blocks", locations, dtype, device, in_float)
    put(network, locations, dtype, device, in_float, progress)
    return network.eval()


def load_vae(part: Path, device: torch.device, dtype: torch.dtype, progress: Progress = no_op) -> WanVae:
    """The autoencoder; errors are those of `load_dit`."""
    files = files_of(part)
    network, rename = bare(part, files, VAE)
    put(network, survey(network, files, rename), dtype, device, progress=progress)
    return network.eval()


def load_tiny(part: Path, device: torch.device, dtype: torch.dtype, progress: Progress = no_op) -> TinyDecoder:
    """The tiny decoder; errors are those of `load_dit`."""
    files = files_of(part)
    config, rename = recognised(files, TINY)
    network = on_meta(TINY.build, config)
    put(network, survey(network, files, rename), dtype, device, progress=progress)
    return network.eval()


def load_text(
    part: Path, device: torch.device, dtype: torch.dtype, streamed: bool = False, progress: Progress = no_op,
    unpacked: bool = False,
) -> Umt5:  # fmt: skip
    """The text encoder; errors are those of `load_dit`. Streamed, of its table only the rows in use are read."""
    files = files_of(part)
    network, _ = bare(part, files, TEXT)
    locations = survey_text(files, network)
    if streamed:
        network.shared = Rows(locations.pop(names.TABLE), dtype, device)  # type: ignore[assignment]
    if not unpacked:
        locations = pack(network, locations, dtype)
    if streamed:
        locations = leave_on_disk(network, "encoder.block", locations, dtype, device)
    put(network, locations, dtype, device, progress=progress)
    return network.eval()


def survey_text(files: list[Path], network: nn.Module) -> dict[str, Stored]:
    """Where the parameters of a text encoder lie; the table may be there under two names."""
    keys = {stored.key for stored in weights_in(files)}
    return survey(network, files, partial(names.text_to_ours, tied={names.TABLE, names.TIED} <= keys))


def survey_with(
    loras: Sequence[Lora], network: nn.Module, files: list[Path], rename: Rename | None, expert: str = ""
) -> dict[str, Stored]:
    """Where a network's parameters lie, and what LoRAs add to them whenever they are read."""
    locations = survey(network, files, rename)
    shapes = {name: stored.shape for name, stored in locations.items()}
    for name, added in changes(loras, shapes, names.DIT.ours_to_original, expert).items():
        locations[name] = replace(locations[name], changes=added)
    return locations


def in_float(name: str) -> bool:
    return not IN_FLOAT.isdisjoint(name.split("."))


# ---- which network it is -----------------------------------------------------------------------------------


def bare(part: Path, files: list[Path], kind: Kind[C, N]) -> tuple[N, Rename | None]:
    """The network on the meta device, and how to read the files' keys."""
    config, rename = which(part, files, kind)
    return on_meta(kind.build, config), rename


def which(part: Path, files: list[Path], kind: Kind[C, N]) -> tuple[C, Rename | None]:
    """The network that a config.json or shapes tell, and how to read the files' keys."""
    if has_config(part):
        return configured(part, kind), None
    return recognised(files, kind)


def configured(part: Path, kind: Kind[C, N]) -> C:
    """What a config.json says; SoraError if that describes no network of this kind."""
    said, where = read_config(part), part / "config.json"
    for key in ("num_layers", "num_res_blocks"):
        if not isinstance(count := said.get(key, 1), int) or not 1 <= count <= MOST_LAYERS:
            raise SoraError(f"{where} has {key} = {ascii(count)[:40]}; it must be from 1 to {MOST_LAYERS}")
    try:
        config = checked(kind.from_hub(said))
        built(config)
        return config
    except KeyError as error:
        raise SoraError(
            f"{where} lacks {error}, which diffusers writes for a Wan {kind.what}; for another layout, give the "
            ".safetensors file itself"
        ) from error
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise SoraError(f"{where} does not describe a Wan {kind.what}: {ascii(str(error))[:200]}") from error


def recognised(files: list[Path], kind: Kind[C, N]) -> tuple[C, Rename]:
    """The preset whose distinguishing shapes these files have; SoraError with the names of all presets."""
    for path in files:
        if path.suffix == ".gguf" and (family := architecture(about(path)[0])) not in kind.architectures:
            raise SoraError(f"{path} is not a Wan {kind.what}: it seems to be {families.seems((), family)}")
    listed = weights_in(files)
    for config, rename in kind.presets.values():
        due = {name: tuple(value.shape) for name, value in built(config).named_parameters()}
        found = {rename(stored.key): stored.shape for stored in listed}
        if all(found.get(name) == due.get(name) for name in kind.distinguishing):
            return config, rename
    seems = families.seems(stored.key for stored in listed)
    raise SoraError(f"{files[0]} is not a Wan {kind.what} known without a config.json ({', '.join(kind.presets)}); "
                    f"it seems to be {seems}")  # fmt: skip


def on_meta(build: Callable[[C], N], config: C) -> N:
    with torch.device("meta"):
        return build(config)
