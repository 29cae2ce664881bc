"""Put trained weights into the package as pocket: `python scripts/ship_pocket.py --vae runs/vae-nano ...`.

Takes run folders of `sora-cli train`; a DiT run that still goes on is shipped as its newest checkpoint's average.
Then registers sizes and hashes in weights.toml.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from sora_cli.files import weights

POCKET = Path(__file__).parent.parent / "sora_cli" / "pocket"


def ship_dit(run: Path) -> None:
    """The finished weights of a run, or the averaged ones of its newest checkpoint."""
    if list(run.glob("dit*.safetensors")):
        tensors, metadata = weights.load_part(run, "dit")
        weights.save_part(POCKET, "dit", tensors, without_folders(metadata))
        return
    from sora_cli.models.sora.text import from_weights as read_text
    from sora_cli.models.sora.vae import from_weights as read_vae
    from sora_cli.train.align import transformer
    from sora_cli.train.options import DitOptions
    from sora_cli.train.recipes.dit import config_of
    from sora_cli.train.trainer import checkpoint

    averaged = {name: tensor.bfloat16() for name, tensor in checkpoint.averages(run).items()}
    options = json.loads((run / "log.jsonl").read_text().splitlines()[0])["options"]
    training = {**{k: Path(str(v)).name for k, v in options.items()}, "step": str(checkpoint.progress(run).step)}
    vae, tower = read_vae(*weights.load_part(POCKET, "vae")), read_text(*weights.load_part(POCKET, "text"))[1]
    config = config_of(DitOptions(**options), vae.config, tower.config)
    header = {"config": json.dumps(asdict(config)), "training": json.dumps(training)}
    weights.save_part(POCKET, "dit", transformer(averaged), header)


def without_folders(metadata: dict[str, str]) -> dict[str, str]:
    """The header of a run's weights, with the names of files but not where they lay."""
    record = json.loads(metadata["training"])
    plain = {k: Path(v).name if isinstance(v, str) else v for k, v in record.items()}
    return metadata | {"training": json.dumps(plain)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for stage in ("text", "vae", "captioner", "evaluator", "dit"):
        parser.add_argument(f"--{stage}", type=Path, help=f"run folder with the {stage} weights")
    asked = parser.parse_args()
    for stage in ("text", "vae", "captioner", "evaluator"):
        if run := getattr(asked, stage):
            tensors, metadata = weights.load(run / f"{stage}.safetensors")
            weights.save(POCKET / f"{stage}.safetensors", tensors, without_folders(metadata))
    if asked.dit:
        ship_dit(asked.dit)
    subprocess.run([sys.executable, Path(__file__).with_name("register_weights.py")], check=True)


if __name__ == "__main__":
    main()
