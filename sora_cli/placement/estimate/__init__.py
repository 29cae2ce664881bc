"""What a shot will cost, before it is made: work, time, memory, disk. No weights are loaded.

How much there is to compute follows from the windows and the sizes of the networks, and how fast this machine does it
is measured with products of matrices.
"""

from collections.abc import Sequence

from sora_cli.placement.estimate import sora, throughput, wan
from sora_cli.placement.estimate.cost import PLAIN, Estimate, Pictures, duration, quantity, slowness
from sora_cli.placement.estimate.sora import Model
from sora_cli.placement.estimate.throughput import product_rate
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import half_of
from sora_cli.registry import Entry
from sora_cli.sampling.planner import Window
from sora_cli.shot import Shot

__all__ = ["Estimate", "Model", "Pictures", "dry_run", "duration", "product_rate", "quantity", "slowness"]


def dry_run(
    entry: Entry, shot: Shot, windows: Sequence[Window], device: str = "auto", dtype: str = "auto",
    memory: str = "auto", pictures: Pictures = PLAIN,
) -> Estimate:  # fmt: skip
    """The cost of a shot that is made in these windows, on this machine; takes about a second.

    SoraError for a device that is not there or does not hold the model; Failed for damaged weights."""
    from sora_cli.placement.device import pick_device, pick_dtype

    where = pick_device(device)
    numbers = pick_dtype(dtype, where, large=entry.kind == "wan")
    if entry.kind == "wan":
        rates, free, half = throughput.rates(where, numbers), Free.on(where), half_of(numbers)
        return wan.estimate(shot, windows, entry, rates, free, numbers.itemsize, memory, half, pictures)
    model = Model.of(entry)
    rate = product_rate(max(sora.largest(model, shot, windows), 1), model.config.width, where, numbers)
    return sora.estimate(shot, windows, model, rate, numbers.itemsize, where.type, pictures)
