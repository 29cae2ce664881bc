"""A sampler is a generator over steps: (velocity, x, times) -> x, x, ..., the last one finished."""

from collections.abc import Callable, Iterator

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Follow dx/dt = velocity(x, t) from times[0] to times[-1] in straight steps."""
    for now, then in zip(times[:-1], times[1:], strict=True):
        x = x + (then - now) * velocity(x, now)
        yield x


def heun(velocity: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """As `euler`, with the mean of the slopes at both ends; the last step, to t = 0, is straight."""
    for now, then in zip(times[:-1], times[1:], strict=True):
        slope = velocity(x, now)
        ahead = x + (then - now) * slope
        if then > 0:
            ahead = x + (then - now) * (slope + velocity(ahead, then)) / 2
        x = ahead
        yield x
