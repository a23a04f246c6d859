"""How devices share a training step: what each of them holds, and what they send each other.

| strategy | weights | gradients | optimizer | sent by each device (G gradients, W weights) |
|---|---|---|---|---|
| ddp | whole | whole, and once more in buckets | whole | all-reduce: 2 G |
| zero-1, zero-2 | whole | whole; shared | shared | reduce-scatter G, all-gather W |
| zero-3, fsdp | shared | shared | shared | all-gather W forward and backward, reduce-scatter G |

times (n - 1) / n of n devices (Rajbhandari et al. 2020, arXiv 1910.02054, section 7). What is
shared is gathered one block at a time, the next one while the present one computes. Weights and
gradients travel in the precision of the weights, but for the matrices that fsdp sends in the
precision of products.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema import MachineConf
from probes.plan.cost_model import ModelSizes, StepCost

MOMENTS = 2  # of AdamW, in the precision of the weights
OPTIMIZER_PASSES = 10  # over the parameters: 7 of AdamW, 3 of clipping the gradients
BUCKET = 200_000_000  # elements that Lightning's DeepSpeed reduces or gathers at a time
GATHERED_BLOCKS = 2  # the present one and the next

WEIGHT_BYTES = {"32-true": 4, "bf16-mixed": 4, "bf16-true": 2}
PRODUCT_BYTES = {"32-true": 4, "bf16-mixed": 2, "bf16-true": 2}


@dataclass(frozen=True)
class Strategy:
    """The tensors that are divided among the devices."""

    name: str
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    alone: bool = False
    rounds: bool = False
    """Whether matrices are sent as products want them (`training/distributed/half_gather.py`)."""


STRATEGIES = (
    Strategy("one device", alone=True),
    Strategy("ddp"),
    Strategy("zero-1", optimizer=True),
    Strategy("zero-2", optimizer=True, gradients=True),
    Strategy("zero-3", optimizer=True, gradients=True, weights=True),
    Strategy("fsdp", optimizer=True, gradients=True, weights=True, rounds=True),
)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device at the peak of a step, by what they hold."""

    weights: float
    gathered: float
    """Weights of other devices, for as long as a block needs them; and buckets to send from."""
    optimizer: float
    gradients: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gathered + self.optimizer + self.gradients + self.activations


def memory(
    strategy: Strategy,
    devices: int,
    sizes: ModelSizes,
    work: StepCost,
    precision: str,
    extra: float = 0.0,
    allocator_overhead: float = 1.0,
) -> Memory:
    """The peak of one device.

    `extra` bytes are alive throughout (states between segments); `allocator_overhead` is what the
    allocator holds for each byte of activations and gradients.
    """
    whole = float(sizes.parameters * WEIGHT_BYTES[precision])
    unit = sizes.root + GATHERED_BLOCKS * sizes.block
    gathered = 0.0
    if strategy.weights:
        gathered = unit * WEIGHT_BYTES[precision]
        if strategy.rounds and precision == "bf16-mixed":  # as they arrive, beside what they become
            gathered += sizes.block * PRODUCT_BYTES[precision]
    elif strategy.optimizer:
        gathered = min(BUCKET, sizes.parameters) * WEIGHT_BYTES[precision]
    elif not strategy.alone:
        gathered = whole
    kept = 1 / devices if strategy.gradients else 1.0
    passing = unit * WEIGHT_BYTES[precision] if strategy.gradients else 0.0
    activations, gradients = allocator_overhead * work.moments.T
    held = gradients * kept + gradients.clip(max=passing)
    moment = (activations + held).argmax()
    return Memory(
        weights=whole / devices if strategy.weights else whole,
        gathered=gathered,
        optimizer=MOMENTS * whole / (devices if strategy.optimizer else 1),
        gradients=float(held[moment]),
        activations=float(activations[moment]) + extra,
    )


def traffic(
    strategy: Strategy, devices: int, sizes: ModelSizes, precision: str, segments: int = 0
) -> float:
    """Bytes each device sends in a step; what is shared moves again for every segment."""
    if strategy.alone or devices == 1:
        return 0.0
    gradients = float(sizes.parameters * WEIGHT_BYTES[precision])
    weights = gradients
    if strategy.rounds:
        weights -= sizes.matrices * (WEIGHT_BYTES[precision] - PRODUCT_BYTES[precision])
    times = max(segments, 1)
    if strategy.weights:
        passes = 3 if segments else 2  # forward, forward again, backward
        sent = times * (passes * weights + gradients)
    elif strategy.gradients:
        sent = times * gradients + weights
    elif strategy.optimizer:
        sent = gradients + weights
    else:
        sent = 2 * gradients
    return sent * (devices - 1) / devices


def bandwidth(machine: MachineConf, devices: int) -> float:
    """Bytes/s of a ring: every byte that leaves a node does so once, over all its ports."""
    if devices <= machine.devices_per_node:
        return machine.link_bytes_s
    return min(machine.link_bytes_s, machine.network_bytes_s)


def optimizer_bytes(strategy: Strategy, devices: int, sizes: ModelSizes, precision: str) -> float:
    """Moved by one device in the optimizer's step."""
    shared = devices if strategy.optimizer else 1
    return OPTIMIZER_PASSES * sizes.parameters * WEIGHT_BYTES[precision] / shared
