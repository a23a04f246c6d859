"""A plan: memory, time and cost of a training step under every strategy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from conf.schema import MachineConf, PlanConf
from core.errors import UserError
from models.contract import TRAINING_FACTOR
from models.registry import ModelSpec
from probes.plan.calibrate import Calibration, calibrate
from probes.plan.cost_model import LAYERS, CostModel, ModelSizes, StepCost
from probes.plan.device_rates import Rates, Roofline, total
from probes.plan.reliability import Reliability, reliability
from probes.plan.strategies import (
    MOMENTS,
    STRATEGIES,
    WEIGHT_BYTES,
    Memory,
    Strategy,
    bandwidth,
    memory,
    optimizer_bytes,
    traffic,
)

# What predictions were compared with measurements on (docs/planner.md); the rest is extrapolated.
CHECKED_PARAMETERS = 6e6
CHECKED_LENGTH = 4096

PLAIN, CHECKPOINTING, SEGMENTS = "plain", "checkpointing", "segments"


@dataclass(frozen=True)
class Row:
    """One strategy with one way to save activations."""

    strategy: str
    variant: str
    """`plain`; `checkpointing` of every block; `segments` of the sequence, the state carried."""
    devices: int
    memory: Memory
    fits: bool
    compute_s: float
    """Forward and backward of one device's sequences, recomputation included."""
    optimizer_s: float
    traffic_bytes: float
    exposed_s: float
    """Seconds of traffic that computing does not hide."""
    step_s: float
    tokens_per_s: float
    """Tokens a second of all devices."""
    mfu: float
    """Model FLOP/s over the peak: recomputation is not counted, causal work exactly."""
    cost_per_step: float | None
    training_s: float | None
    cost: float | None
    """Seconds for all `tokens`; failures not included."""


@dataclass(frozen=True)
class Plan:
    """All rows at one context length."""

    length: int
    sequences: int
    """Sequences of one device in one step."""
    sizes: ModelSizes
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row | None:
        """The fastest per device among those that fit."""
        fitting = [row for row in self.rows if row.fits]
        return max(fitting, key=lambda row: row.tokens_per_s, default=None)


class Planner:
    """Plans of one model on one kind of machine; rates are measured once if they must be."""

    def __init__(self, spec: ModelSpec, conf: PlanConf) -> None:
        self.spec, self.conf = spec, conf
        self.calibration: Calibration | None = None
        self.rates: Rates = Roofline(conf.machine, conf.precision)
        self.allocator_overhead = 1.0
        self.peak_flops = Roofline(conf.machine, conf.precision).peak_flops
        self.machine = conf.machine
        if conf.machine.measure:
            calibration = self.calibration = calibrate(spec, conf.precision, conf.threads)
            self.rates, self.allocator_overhead, self.peak_flops = (
                calibration.rates,
                calibration.allocator_overhead,
                calibration.peak_flops,
            )
            self.machine = replace(conf.machine, memory_bytes=float(calibration.memory_bytes))
        self.demand = CostModel(spec, conf.machine.device, conf.precision)

    @property
    def sequences(self) -> int:
        """Sequences of one device in one step."""
        return max(1, self.conf.data.batch_size // self.conf.devices)

    def plan(self, length: int) -> Plan:
        """Every strategy at one context length."""
        sizes = self.demand.sizes(length)
        rows = [
            self._row(strategy, variant, sizes, length)
            for strategy in STRATEGIES
            if strategy.alone or self.conf.devices > 1
            for variant in self._variants(length, sizes)
        ]
        return Plan(length, self.sequences, sizes, tuple(rows))

    def extrapolated(self, plan: Plan) -> list[str]:
        """How a plan goes beyond what predictions were checked on, one phrase each."""
        reasons = []
        if not self.conf.machine.measure:
            reasons.append(f"{self.machine.title}: rates that were not measured here")
        if plan.sizes.parameters > CHECKED_PARAMETERS:
            reasons.append(f"{plan.sizes.parameters:,} parameters (checked up to 6 million)")
        if plan.length > CHECKED_LENGTH:
            reasons.append(f"{plan.length:,} tokens (checked up to {CHECKED_LENGTH:,})")
        if self.conf.devices > 1:
            reasons.append(f"{self.conf.devices:,} devices (checked on one)")
        return reasons

    def reliability(self, sizes: ModelSizes) -> Reliability:
        """Reliability of the whole job; a checkpoint holds weights and moments by default."""
        whole = (1 + MOMENTS) * sizes.parameters * WEIGHT_BYTES[self.conf.precision]
        return reliability(
            self.conf.mtbf_hours,
            self.conf.devices,
            self.conf.checkpoint_bytes or whole,
            self.machine.storage_bytes_s,
            60 * self.conf.restart_minutes,
        )

    def _variants(self, length: int, sizes: ModelSizes) -> Iterable[_Variant]:
        for name, checkpointing in ((PLAIN, False), (CHECKPOINTING, True)):
            work = self.demand.work(self.sequences, length, checkpointing)
            yield _Variant(name, work, self.rates)
        segment = self.conf.segment
        if self.demand.recurrent and segment < length:
            work = self.demand.work(self.sequences, segment, False)
            between = length / segment * self.sequences * sizes.state_bytes
            yield _Variant(SEGMENTS, work, self.rates, length / segment, between)

    def _row(self, strategy: Strategy, variant: _Variant, sizes: ModelSizes, length: int) -> Row:
        conf, machine = self.conf, self.machine
        devices = 1 if strategy.alone else conf.devices
        held = memory(
            strategy,
            devices,
            sizes,
            variant.work,
            conf.precision,
            variant.between,
            self.allocator_overhead,
        )
        sent = traffic(strategy, devices, sizes, conf.precision, round(variant.segments))
        sending = sent / bandwidth(machine, devices)
        exposed = max(0.0, sending - machine.overlap * variant.seconds)
        update = self.rates.stream(optimizer_bytes(strategy, devices, sizes, conf.precision))
        step = variant.seconds + exposed + update
        rate = self.sequences * length * devices / step
        useful = TRAINING_FACTOR * sizes.forward_flops * self.sequences / step
        price = machine.price_per_hour / 3600 * devices
        training = conf.tokens / rate if conf.tokens else None
        return Row(
            strategy=strategy.name,
            variant=variant.name,
            devices=devices,
            memory=held,
            fits=held.total <= machine.memory_bytes,
            compute_s=variant.seconds,
            optimizer_s=update,
            traffic_bytes=sent,
            exposed_s=exposed,
            step_s=step,
            tokens_per_s=rate,
            mfu=useful / self.peak_flops,
            cost_per_step=price * step if price else None,
            training_s=training,
            cost=price * training if price and training else None,
        )


@dataclass(frozen=True)
class _Variant:
    """How a sequence is processed: all at once, or in segments, forward twice."""

    name: str
    work: StepCost
    rates: Rates
    segments: float = 0
    between: float = 0
    """Bytes of states kept at the borders of segments."""

    @cached_property
    def seconds(self) -> float:
        whole = compute_seconds(self.rates, self.work)
        if not self.segments:
            return whole
        return self.segments * (whole + compute_seconds(self.rates, self.work, forward_only=True))


def compute_seconds(rates: Rates, work: StepCost, forward_only: bool = False) -> float:
    """Seconds for all layers, extrapolated linearly from the two traced depths."""
    few, more = (total(rates, work.ops[layers], forward_only) for layers in LAYERS)
    return few + (work.layers - LAYERS[0]) * (more - few)


def check_fits(plan: Plan, machine: MachineConf) -> None:
    """Raise `UserError` if no strategy fits; it names the memory that the smallest one needs."""
    if plan.best is None:
        least = min(plan.rows, key=lambda row: row.memory.total)
        raise UserError(
            f"nothing fits into {machine.memory_bytes / 1e9:.1f} GB of {machine.title}: even "
            f"{least.strategy} with {least.variant} needs {least.memory.total / 1e9:.1f} GB on "
            f"each of {least.devices} devices. Take more devices, a smaller model or batch, a "
            "shorter length or segment, or another machine"
        )
