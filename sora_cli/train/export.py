"""`sora-cli train export`: trained networks as one folder, which `--model ./FOLDER` runs and which can be published.

It holds the weights with their configurations in their headers, a weights.toml that names them with their hashes, and
README.md, the model card: what was trained, on what, how it went.
"""

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sora_cli import registry
from sora_cli.dataset.shards import identity, read_lines
from sora_cli.errors import SoraError, counted
from sora_cli.files import weights
from sora_cli.files.owned import Owned
from sora_cli.registry import SamplingDefaults
from sora_cli.train.frozen import Network, check_frozen
from sora_cli.train.options import ExportOptions
from sora_cli.world.captions import words

LOGGED = {"step", "seconds", "loss", "speed"}
STEMS = ("text", "vae", "dit")


def export(options: ExportOptions) -> Path:
    """Gather the transformer of `options.init`, the autoencoder and the text tower in `options.out`; returns it.
    SoraError if networks do not fit together, or if there are other things in the folder."""
    with Owned(options.out, {"stage": "export"}) as own:
        unfinished = own.stored_identity() == own.identity  # which its process, that was killed, left behind
        if not (own.empty or unfinished or (options.out / registry.EXPORTED).is_file()):
            raise SoraError(f"--out {options.out} is neither empty nor a model; give another folder")
        sources = {"text": options.text, "vae": options.vae, "dit": options.init}
        networks = {stem: registry.load_network(stem, path) for stem, path in sources.items()}
        check(networks)
        own.begin()
        write(options, networks)
        own.remove()
    return options.out


def write(options: ExportOptions, networks: Mapping[str, Network]) -> None:
    """Write the model; nobody else writes in its folder."""
    paths = [path for stem, (tensors, header) in networks.items()
             for path in weights.save_part(options.out, stem, tensors, header)]  # fmt: skip
    if (curves := options.init / "curves.png").is_file():
        shutil.copyfile(curves, options.out / "curves.png")
    title, headers = options.out.resolve().name, {stem: header for stem, (_, header) in networks.items()}
    usage = usage_of(headers)
    page = card(title, headers, usage, last_line(options.init), curves.is_file())
    weights.write(options.out / "README.md", page.encode())
    weights.write(options.out / registry.EXPORTED, table(title, paths, usage).encode())


def check(networks: Mapping[str, Network]) -> None:
    """The networks fit together; SoraError naming the two that do not."""
    text, vae, dit = (json.loads(networks[stem][1]["config"]) for stem in STEMS)
    if dit["channels"] != vae["space"] + vae["time"]:
        raise SoraError(f"the transformer was trained on latents of {dit['channels']} channels, but this VAE has "
                        f"{vae['space']} + {vae['time']}; give the one of its run with --vae")  # fmt: skip
    if dit["text_width"] != text["width"]:
        raise SoraError(f"the transformer reads text features of width {dit['text_width']}, but this text tower makes "
                        f"{text['width']}; give the one of its run with --text")  # fmt: skip
    check_frozen(networks["dit"][1], {stem: identity(*networks[stem]) for stem in ("vae", "text")})


def usage_of(headers: Mapping[str, Mapping[str, str]]) -> SamplingDefaults:
    """How the model is best used. One that learned from the world, and whose text tower has its words, is used as
    pocket is: prompts become captions of the world's grammar, which say everything, so that it needs no guidance.
    Others read prompts as they are typed."""
    usual = registry.entry("pocket").usage
    own = bool(json.loads(headers["dit"].get("data", "{}")))
    if not own and set(words()) <= set(json.loads(headers["text"]["vocabulary"])):
        return usual
    return SamplingDefaults(window=usual.window, context=usual.context)


def last_line(run: Path) -> dict[str, Any]:
    """What the log of a run ends with; nothing where there is none."""
    return next((line for line in reversed(read_lines(run / "log.jsonl")) if line.keys() >= LOGGED), {})


def table(title: str, files: list[Path], usage: SamplingDefaults) -> str:
    """The weights.toml of the folder, of the registry's form."""
    rows = "".join(f"  {{ name = {json.dumps(path.name)}, bytes = {path.stat().st_size}, "
                   f'sha256 = "{weights.hash_of(path)}" }},\n' for path in files)  # fmt: skip
    usual = asdict(SamplingDefaults())
    said = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
                   for key, value in asdict(usage).items() if value != usual[key])  # fmt: skip
    return (f'[{json.dumps(title)}]\nkind = "sora"\nabout = "trained by sora-cli train"\nlicence = "unknown"\n'
            f"files = [\n{rows}]\n[{json.dumps(title)}.usage]\n{said}")  # fmt: skip


def card(title: str, headers: Mapping[str, Mapping[str, str]], usage: SamplingDefaults, last: Mapping[str, Any],
         curves: bool) -> str:  # fmt: skip
    """The model card: what is in the folder, what it learned from, how that went, and the options of every training."""
    parts = "\n".join(f"| {stem} | {sizes(headers[stem])} |" for stem in STEMS)
    trained = "\n".join(f"- **{stem}**: {learned_from(headers[stem])}" for stem in STEMS)
    picture = "\n![Loss, error and gradient norm of the transformer's training](curves.png)\n" if curves else ""
    data = json.loads(headers["dit"].get("data", "{}"))
    prompt = "a cat surfing" if usage.grammar else data.get("example", "")
    return f"""# {title}

A text-to-video model trained with sora-cli.

```sh
sora-cli generate {shlex.quote(prompt)} --model ./{title}
```

{source(data)}

| part | configuration |
|---|---|
{parts}

{ended(last)}Trained with these options:

{trained}
{picture}"""


def source(data: Mapping[str, Any]) -> str:
    """What the transformer learned from."""
    if not data:
        return "Learned from the rendered world of sora-cli."
    captions, (minutes, seconds) = data["captions"], divmod(round(data["seconds"]), 60)
    files = f"{counted(data['videos'], 'video')} and {counted(data['images'], 'picture')}"
    different = counted(captions["different"], "different caption")
    return (f"Learned from {files} ({counted(data['shots'], 'shot')}, {minutes} min {seconds} s), with {different} of "
            f"up to {counted(captions['words'][2], 'word')}.")  # fmt: skip


def ended(last: Mapping[str, Any]) -> str:
    """How the transformer's training ended."""
    if not last:
        return ""
    return (f"After {counted(last['step'], 'step')} and {last['seconds'] / 3600:.2g} hours its loss was "
            f"{last['loss']:.4g}, at {last['speed']:g} samples a second.\n\n")  # fmt: skip


def sizes(header: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in json.loads(header["config"]).items())


def learned_from(header: Mapping[str, str]) -> str:
    record = json.loads(header.get("training", "{}"))
    return ", ".join(f"{key} {value}" for key, value in record.items() if value not in (None, "None", "False"))
