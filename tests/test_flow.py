"""The path and its solvers against closed forms."""

import math

import torch

from sora_cli.sampling import flow
from sora_cli.sampling.solvers import euler


def test_velocity_of_the_true_x_is_noise_minus_x() -> None:
    x, noise = torch.randn(2, 100)
    t = torch.rand(100) * 0.9 + 0.1
    assert torch.allclose(flow.velocity(flow.noised(x, noise, t), x, t), noise - x, atol=1e-5)


def test_ends_of_the_path() -> None:
    x, noise = torch.randn(2, 10)
    assert torch.equal(flow.noised(x, noise, torch.zeros(10)), x)
    assert torch.equal(flow.noised(x, noise, torch.ones(10)), noise)


def test_euler_converges_to_the_closed_form_at_first_order() -> None:
    """Data N(m, s^2): the flow's exact velocity is known, and maps noise e to m + s e."""
    mean, std = 2.0, 0.5

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        variance = ((1 - t) * std) ** 2 + t**2
        score = (x - (1 - t) * mean) / variance
        return -mean + (t - (1 - t) * std**2) * score

    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (64, 128):
        *_, x = euler(velocity, noise, flow.schedule(steps, 1.0).double())
        errors.append(float((x - (mean + std * noise)).abs().max()))
    assert errors[1] < 0.02
    assert math.log2(errors[0] / errors[1]) > 0.75


def test_a_point_is_hit_in_one_step() -> None:
    x = torch.randn(5)
    (last,) = euler(lambda y, t: flow.velocity(y, x, t), torch.randn(5), flow.schedule(1, 1.0))
    assert torch.allclose(last, x, atol=1e-6)


def test_schedule_falls_from_one_to_zero_and_shift_leans_to_noise() -> None:
    plain, shifted = flow.schedule(8, 1.0), flow.schedule(8, 3.0)
    assert plain[0] == shifted[0] == 1 and plain[-1] == shifted[-1] == 0
    assert (plain.diff() < 0).all() and (shifted[1:-1] > plain[1:-1]).all()
    assert torch.allclose(flow.shifted(torch.tensor(0.5), 3.0), torch.tensor(0.75))
