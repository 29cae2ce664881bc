"""Write tests/data/wan_golden.safetensors: what the references answer to the cases of wan_cases.

    python tests/parity/make_golden.py

The weights are not in the file; `wan_cases.fill` makes them again from their seed.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import test_dit_parity as dit  # noqa: E402
import test_solver_parity as solver  # noqa: E402
import test_text_parity as text  # noqa: E402
import test_vae_parity as vae  # noqa: E402
from wan_cases import SKYREELS, VAE21, VAE22, WAN, clip, dit_inputs, latents, tokens  # noqa: E402


@torch.no_grad()
def answers() -> dict[str, Tensor]:
    x, t, words = dit_inputs().values()
    per_token = t[..., None].expand(-1, -1, 15).flatten(1)
    found = {"wan": dit.pair(dit.WanTransformer3DModel, WAN)[0](x, per_token, words, return_dict=False)[0]}
    one = (x[:1], t[:1], words[:1])
    sky = dit.pair(dit.SkyReelsV2Transformer3DModel, SKYREELS)[0]
    found["skyreels"] = sky(*one, enable_diffusion_forcing=True, fps=[1], return_dict=False)[0]
    found["umt5"] = text.pair()[0](tokens(40)[None]).last_hidden_state[0]
    for name, config in {"vae21": VAE21, "vae22": VAE22}.items():
        theirs, ours = vae.pair(config)
        z = latents(config["z_dim"], 2)
        mean, std = ours.statistics(z)
        found[f"{name}.encode"] = (theirs.encode(clip(5)).latent_dist.mode() - mean) / std
        found[f"{name}.decode"] = theirs.decode(z * std + mean, return_dict=False)[0][..., ::4, ::4]
    scheduler = solver.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(6)
    found["unipc"] = torch.stack(list(solver.walk(scheduler)))
    scheduler = solver.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    found["euler"] = torch.stack(list(solver.walk(scheduler)))
    return {key: value.contiguous() for key, value in found.items()}


if __name__ == "__main__":
    made_by = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    save_file(answers(), TESTS / "data" / "wan_golden.safetensors", {"made_by": json.dumps(made_by)})
