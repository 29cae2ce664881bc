"""The batches of a training, made ahead of their steps, and the time that it waits for them."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class Prefetcher:
    """Batches by their number. A thread makes the next `ahead` of them while the network learns: one thread, in the
    order of their numbers, so that what is made is the same. 0 makes each when it is asked for.

    Numbers are asked for in steps of `stride`, up to `end`."""

    def __init__(self, make: Callable[[int], Any], ahead: int, stride: int, end: int) -> None:
        self.make, self.ahead, self.stride, self.end = make, ahead, stride, end
        self.pool = ThreadPoolExecutor(1, "data") if ahead else None
        self.coming: dict[int, Future] = {}
        self.waited = 0.0  # seconds in all

    def __call__(self, number: int) -> Any:
        began = time.perf_counter()
        if self.pool:
            for later in range(number, min(number + (self.ahead + 1) * self.stride, self.end), self.stride):
                if later not in self.coming:
                    self.coming[later] = self.pool.submit(self.make, later)
        made = self.coming.pop(number).result() if self.pool else self.make(number)
        self.waited += time.perf_counter() - began
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)
