"""The solvers against diffusers' schedulers, with a nonlinear function as the network."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reference import reference
from torch import Tensor
from wan_cases import START, distance, network, scaled, told

from sora_cli.sampling.solvers import DMD, dmd, euler, euler_sigmas, timesteps, unipc, unipc_sigmas

pytestmark = pytest.mark.parity
UniPCMultistepScheduler = reference("diffusers", "UniPCMultistepScheduler")
FlowMatchEulerDiscreteScheduler = reference("diffusers", "FlowMatchEulerDiscreteScheduler")

def walk(scheduler: Any) -> Iterator[Tensor]:
    x = START
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
        yield x


def compare(name: str, ours: Iterator[Tensor], theirs: Iterator[Tensor]) -> None:
    worst = max(distance(a, b) for a, b in zip(ours, theirs, strict=True))
    assert told(name, worst) <= 1e-6


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 50])
def test_unipc(steps: int, shift: float) -> None:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    sigmas = unipc_sigmas(steps, shift)
    assert torch.equal(sigmas.float(), scheduler.sigmas)
    assert torch.equal(timesteps(sigmas[:-1]), scheduler.timesteps)
    ours = unipc(lambda x, sigma: network(x, timesteps(sigma)), START, sigmas)
    compare(f"unipc, {steps} steps, shift {shift}", ours, walk(scheduler))


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_euler(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    sigmas = euler_sigmas(steps, shift)
    assert distance(sigmas, scheduler.sigmas) <= 1e-7
    compare(f"euler, {steps} steps, shift {shift}", euler(scaled, START, sigmas), walk(scheduler))


def test_dmd() -> None:
    """FastWan's published sampler looks its noise levels up on this scheduler's training grid."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.0)
    sigma = {t: scheduler.sigmas[(scheduler.timesteps - t).abs().argmin()] for t in DMD}
    rng, x = torch.Generator().manual_seed(3), START
    expected = []
    for t, then in zip(DMD, [*DMD[1:], None], strict=True):
        x = x - sigma[t] * network(x, torch.tensor(float(t)))
        if then is not None:
            x = (1 - sigma[then]) * x + sigma[then] * torch.randn(x.shape, generator=rng)
        expected.append(x)
    compare("dmd", dmd(scaled, START, torch.Generator().manual_seed(3)), iter(expected))
