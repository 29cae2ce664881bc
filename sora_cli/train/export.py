"""`sora-cli train export`: trained networks as one folder, which `--model ./FOLDER` runs and which can be published.

It holds the weights with their configurations in their headers, a weights.toml that names them with their hashes, and
README.md, the model card: what was trained, on what, how it went.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from sora_cli import registry, weights
from sora_cli.errors import SoraError
from sora_cli.registry import Usage
from sora_cli.train.options import TrainOptions

STEMS = ("text", "vae", "dit")
Network = tuple[dict[str, Tensor], dict[str, str]]


def export(options: TrainOptions) -> Path:
    """Gather the transformer of `options.init`, the autoencoder and the text tower in `options.out`; returns it."""
    assert options.init
    sources = {"text": options.text, "vae": options.vae, "dit": options.init}
    networks = {stem: registry.load_network(stem, path) for stem, path in sources.items()}
    check(networks)
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [path for stem, (tensors, header) in networks.items()
             for path in weights.save_part(options.out, stem, tensors, header)]  # fmt: skip
    if (curves := options.init / "curves.png").is_file():
        shutil.copyfile(curves, options.out / "curves.png")
    title, headers = options.out.resolve().name, {stem: header for stem, (_, header) in networks.items()}
    weights.write(options.out / "README.md", card(title, headers, curves.is_file()).encode())
    weights.write(options.out / registry.EXPORTED, table(title, paths, usage_of(headers["dit"])).encode())
    return options.out


def check(networks: Mapping[str, Network]) -> None:
    """The networks fit together; SoraError naming the two that do not."""
    text, vae, dit = (json.loads(networks[stem][1]["config"]) for stem in STEMS)
    if dit["channels"] != vae["space"] + vae["time"]:
        raise SoraError(f"the transformer was trained on latents of {dit['channels']} channels, and this VAE has "
                        f"{vae['space']} + {vae['time']}; give the one of its run with --vae")  # fmt: skip
    if dit["text_width"] != text["width"]:
        raise SoraError(f"the transformer reads text features of {dit['text_width']}, and this text tower makes "
                        f"{text['width']}; give the one of its run with --text")  # fmt: skip


def usage_of(dit: Mapping[str, str]) -> Usage:
    """How the model is best used: as pocket is, with as many steps as its training was for."""
    usual = registry.entry("pocket").usage
    return usual if "distilled" in dit else Usage(window=usual.window, context=usual.context)


def table(title: str, files: list[Path], usage: Usage) -> str:
    """The weights.toml of the folder, of the registry's form."""
    rows = "".join(f"  {{ name = {json.dumps(path.name)}, bytes = {path.stat().st_size}, "
                   f'sha256 = "{weights.hash_of(path)}" }},\n' for path in files)  # fmt: skip
    usual = asdict(Usage())
    said = "".join(f"{key} = {toml(value)}\n" for key, value in asdict(usage).items() if value != usual[key])
    return (f'[{json.dumps(title)}]\nkind = "sora"\nabout = "trained by sora-cli train"\nlicence = "unknown"\n'
            f"files = [\n{rows}]\n[{json.dumps(title)}.usage]\n{said}")  # fmt: skip


def toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def card(title: str, headers: Mapping[str, Mapping[str, str]], curves: bool) -> str:
    """The model card: what is in the folder, and the options of every training as its weights tell them."""
    parts = "\n".join(f"| {stem} | {sizes(headers[stem])} |" for stem in STEMS)
    trained = "\n".join(f"- **{stem}**: {told(headers[stem])}" for stem in STEMS)
    picture = "\n![Loss, error and gradient norm of the transformer's training](curves.png)\n" if curves else ""
    return f"""# {title}

A text-to-video model trained with sora-cli.

```sh
sora-cli generate "a cat surfing" --model ./{title}
```

| part | configuration |
|---|---|
{parts}

Trained with these options:

{trained}
{picture}"""


def sizes(header: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in json.loads(header["config"]).items())


def told(header: Mapping[str, str]) -> str:
    record = json.loads(header.get("training", "{}"))
    return ", ".join(f"{key} {value}" for key, value in record.items() if value not in (None, "None", "False"))
