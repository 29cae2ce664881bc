"""The solvers that the published flow models were tuned for, as generators over steps: (velocity, x,
times) -> x, x, ..., the last one finished.

They walk sigmas, the noise levels of the straight path from noise (1) to data (0), and ask the network for its
velocity, noise minus data. The networks take timesteps 0..1000 instead of sigmas; `timesteps` names them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sora_cli.errors import SoraError
from sora_cli.sampling.flow import shifted

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> dx/dt

TRAINED = 1000  # timesteps that the networks were trained with
DMD = (1000, 757, 522)  # the three timesteps that FastWan was distilled to
# Of the table in which FastWan looks up its noise levels. Its training scripts have 5, its published sampler has 8. The
# table is asked for the level nearest to a timestep, so that the shift decides nothing but how fine it is there: 757 is
# 0.7571 at 5 and 0.7568 at 8, 522 is 0.5216 and 0.5217. 8 is what the authors' own pictures were made with.
DMD_SHIFT = 8.0


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Follow dx/dt = velocity(x, t) from times[0] to times[-1] in straight steps."""
    for now, then in zip(times[:-1], times[1:], strict=True):
        x = x + (then - now) * velocity(x, now)
        yield x


def unipc_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels [steps + 1] from just below 1 down to 0, moved towards noise by `shift`; in float64.

    Just below, because UniPC works with the logarithm of the signal, which is nothing at 1."""
    s = shifted(1 + torch.arange(steps, dtype=torch.float64) * ((1 / TRAINED - 1) / steps), shift)
    s[0] -= 1e-6
    return torch.cat([s, s.new_zeros(1)])


def euler_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels [steps + 1] from 1 down to 0 for `euler`: an even walk between the ends of the shifted
    training levels, then shifted once more, as the published Euler schedulers do; in float32."""
    last = shift / TRAINED / (1 + (shift - 1) / TRAINED)
    s = shifted(torch.linspace(1, last, steps, dtype=torch.float64), shift)
    return torch.cat([s, s.new_zeros(1)]).float()


def even_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels [steps + 1] from 1 down to 0, evenly spaced and then moved towards noise by `shift`; in float64.

    Networks that were distilled to a few steps walk these. Four steps with a shift of 5 are 1, 0.9375, 0.8333, 0.625
    and 0: rows 1000, 750, 500 and 250 of the training table, as LightX2V has them
    (schedulers/wan/step_distill/scheduler.py), and the self-forcing recipe of Wan2.2-TI2V-5B-Turbo."""
    return shifted(1 - torch.arange(steps + 1, dtype=torch.float64) / steps, shift)


def solve(solver: str, velocity: Velocity, x: Tensor, steps: int, shift: float,
          rng: torch.Generator) -> Iterator[Tensor]:  # fmt: skip
    """x after every step of the solver of this name, one of `registry.schema.SOLVERS`. rng: for the solvers that draw
    noise, on the CPU."""
    levels = levels_of(solver, steps, shift)
    match solver:
        case "unipc":
            return unipc(velocity, x, levels)
        case "dmd":
            return dmd(velocity, x, rng, DMD if steps == len(DMD) else (TRAINED * levels[:-1]).tolist(), shift)
        case _:  # euler, lightx2v
            return euler(velocity, x, levels.float().to(x.device))


def levels_of(solver: str, steps: int, shift: float) -> Tensor:
    """The noise levels [steps + 1] that a solver of a registry entry walks. SoraError for no steps."""
    if steps < 1:
        raise SoraError(f"sampling takes at least one step, not {steps}")
    if solver == "dmd" and steps == len(DMD):
        return torch.tensor([trained_level(t) for t in DMD] + [0.0], dtype=torch.float64)
    return {"unipc": unipc_sigmas, "euler": euler_sigmas}.get(solver, even_sigmas)(steps, shift)


def timesteps(sigmas: Tensor) -> Tensor:
    """The whole timesteps, int64, that networks sampled by UniPC take for noise levels in float64."""
    return (sigmas * TRAINED).long()


def timestep_of(solver: str, sigma: Tensor) -> Tensor:
    """The timestep that a network takes for a noise level; LightX2V's are no whole numbers."""
    return sigma * TRAINED if solver == "lightx2v" else timesteps(sigma)


def steps_above(boundary: float, solver: str, steps: int, shift: float) -> int:
    """The number of solver steps at or above a boundary, given as a share of the training timesteps."""
    times = timestep_of(solver, levels_of(solver, steps, shift)[:-1])
    return int((times >= boundary * TRAINED).sum())


def unipc(velocity: Velocity, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    """UniPC of order two (Zhao et al. 2023, B(h) = e^h - 1, data prediction): every new velocity first corrects the
    step that led to it, then predicts the next. velocity: called with x and one of `sigmas` as it was given."""
    levels = sigmas.float()
    steps = len(sigmas) - 1
    clean: list[Tensor] = []  # the data predicted at every step, the last two of them
    start, order = x, 0  # where the last step began, after its correction, and the order it was made with
    for i in range(steps):
        found = x - levels[i].to(x.device) * velocity(x, sigmas[i])
        if i:
            x = corrected(start, [*clean, found], levels[: i + 1], order)
        start, clean = x, [*clean, found][-2:]
        order = 1 if i in (0, steps - 1) else 2  # one prediction to go by, and none to come that would correct it
        x = predicted(x, clean, levels[: i + 2], order)
        yield x


def predicted(x: Tensor, clean: Sequence[Tensor], levels: Tensor, order: int) -> Tensor:
    """x at levels[-1], from x at levels[-2] and the data predicted up to there."""
    h = h_of(levels)
    if order == 1:
        return moved(x, clean[-1], levels, h)
    return moved(x, clean[-1], levels, h, 0.5 * ((clean[-2] - clean[-1]) / r_of(levels, h).to(x.device)))


def corrected(x: Tensor, clean: Sequence[Tensor], levels: Tensor, order: int) -> Tensor:
    """x at levels[-1] again, now that the data predicted there is there as the last of `clean`."""
    h = h_of(levels)
    error = clean[-1] - clean[-2]
    if order == 1:
        return moved(x, clean[-2], levels, h, 0.5 * error)
    r = r_of(levels, h)
    slope = (clean[-3] - clean[-2]) / r.to(x.device)
    old, new = (weight.to(x.device) for weight in weights(h, r))
    return moved(x, clean[-2], levels, h, old * slope + new * error)


def moved(x: Tensor, clean: Tensor, levels: Tensor, h: Tensor, bend: Tensor | None = None) -> Tensor:
    """x at levels[-1] if the data predicted at levels[-2] were right, or right but for `bend`."""
    kept, added = (levels[-1] / levels[-2]).to(x.device), ((1 - levels[-1]) * torch.expm1(-h)).to(x.device)
    ahead = kept * x - added * clean
    return ahead if bend is None else ahead - added * bend


def lambda_of(level: Tensor) -> Tensor:
    """Half the logarithm of the signal-to-noise ratio: lambda in the paper, as h and r below are."""
    return torch.log(1 - level) - torch.log(level)


def h_of(levels: Tensor) -> Tensor:
    """The size of the last step, in lambda."""
    return lambda_of(levels[-1]) - lambda_of(levels[-2])


def r_of(levels: Tensor, h: Tensor) -> Tensor:
    """How far the step before went back, in steps of `h`; negative."""
    return (lambda_of(levels[-3]) - lambda_of(levels[-2])) / h


def weights(h: Tensor, r: Tensor) -> Tensor:
    """The corrector's weights [2] of the earlier slope and of the error, from the paper's linear system."""
    first = torch.expm1(-h) / -h - 1
    second = first / -h - 0.5
    system = torch.stack([torch.ones(2), torch.stack([r, torch.ones(())])])
    return torch.linalg.solve(system, torch.stack([first, 2 * second]) / torch.expm1(-h))


def dmd(velocity: Velocity, x: Tensor, rng: torch.Generator, times: Sequence[float] = DMD,
        shift: float = DMD_SHIFT) -> Iterator[Tensor]:  # fmt: skip
    """Distribution-matching distillation (Yin et al. 2024): jump to the data at every timestep, then noise it afresh
    to the next; the last jump is the result. rng: a CPU generator; velocity: called with x and t / 1000."""
    levels = [trained_level(t, shift) for t in times]
    for t, now, then in zip(times, levels, [*levels[1:], 0.0], strict=True):
        x = x - now * velocity(x, torch.tensor(t / TRAINED, dtype=torch.float64))
        if then:
            noise = torch.randn(x.shape, generator=rng, dtype=torch.float32).to(x)
            x = (1 - then) * x + then * noise
        yield x


def trained_level(t: float, shift: float = DMD_SHIFT) -> float:
    """The level nearest to a timestep that a network was trained on: distilled ones saw that one's noise."""
    s = shifted(torch.arange(1, TRAINED + 1, dtype=torch.float64) / TRAINED, shift)
    return float(s[(s - t / TRAINED).abs().argmin()])
