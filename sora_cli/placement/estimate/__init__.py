"""What a shot will cost, before it is made: work, time, memory, disk. No weights are loaded.

How much there is to compute follows from the windows and the sizes of the networks, and how fast this machine does it
is measured with products of matrices.
"""

from sora_cli.placement.estimate import sora, throughput, wan
from sora_cli.placement.estimate.cost import PLAIN, Estimate, Pictures, Plan, duration, quantity, slowness
from sora_cli.placement.estimate.sora import Model
from sora_cli.placement.estimate.throughput import product_rate
from sora_cli.placement.machine import Free
from sora_cli.placement.memory import half_of

__all__ = ["Estimate", "Model", "Pictures", "dry_run", "duration", "product_rate", "quantity", "slowness"]


def dry_run(plan: Plan, device: str = "auto", dtype: str = "auto", memory: str = "auto",
            pictures: Pictures = PLAIN) -> Estimate:  # fmt: skip
    """The cost of a plan on this machine; takes about a second.

    SoraError for a device that is not there or does not hold the model; Failed for damaged weights."""
    from sora_cli.placement.device import pick_device, pick_dtype

    where = pick_device(device)
    numbers = pick_dtype(dtype, where, large=plan.entry.kind == "wan")
    if plan.entry.kind == "wan":
        rates, free, half = throughput.rates(where, numbers), Free.on(where), half_of(numbers)
        return wan.estimate(plan, rates, free, numbers.itemsize, memory, half, pictures)
    model = Model.of(plan.entry)
    rows = min(sora.largest(model, plan), throughput.MOST_ROWS)
    rate = product_rate(max(rows, 1), model.config.width, where, numbers)
    return sora.estimate(plan, model, rate, numbers.itemsize, where.type, pictures)
