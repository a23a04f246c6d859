"""How long a device takes for an operation: from published peaks, or from curves measured here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy

from conf.schema import MachineConf
from models.step_trace import LOSS, Op


class Rates(Protocol):
    """Seconds of operations."""

    def seconds(self, op: Op) -> float:
        """Seconds of all the operations that `op` stands for."""
        ...

    def stream(self, moved: float) -> float:
        """Seconds to read and write so many bytes of large arrays."""
        ...


@dataclass(frozen=True)
class Roofline:
    """Peaks times the share of them that real programs reach; whichever bound is slower."""

    machine: MachineConf
    precision: str

    @property
    def peak_flops(self) -> float:
        low = self.precision != "32-true"
        return self.machine.flops_bf16 if low else self.machine.flops_fp32

    def seconds(self, op: Op) -> float:
        machine = self.machine
        rates = {
            "matmul": self.peak_flops * machine.matmul_efficiency,
            "thin matmul": self.peak_flops * machine.matmul_efficiency,
            "attention": self.peak_flops * machine.attention_efficiency,
            "recurrence": machine.recurrence_flops,
        }
        rate = rates.get(op.kind.removesuffix(" backward"), math.inf)
        bound = max(op.flops / rate, self.stream(op.bytes))
        return max(bound, op.count * machine.launch_seconds)

    def stream(self, moved: float) -> float:
        return moved / (self.machine.memory_bytes_s * self.machine.memory_efficiency)


@dataclass(frozen=True)
class Curve:
    """Seconds of one operation of a kind, by its amount of work (operations, or bytes)."""

    amounts: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, amount: float) -> float:
        """Between measured amounts a power law; below them the smallest; above, in proportion."""
        if amount > self.amounts[-1]:
            return self.seconds[-1] * amount / self.amounts[-1]
        place = math.log(max(amount, self.amounts[0]))
        return float(
            numpy.exp(numpy.interp(place, numpy.log(self.amounts), numpy.log(self.seconds)))
        )


@dataclass(frozen=True)
class Measured:
    """What calibration found: a curve per kind, and the time between operations."""

    curves: dict[str, Curve]
    op_seconds: float
    """Seconds of the interpreter and autograd around every operation."""
    byte_seconds: float
    """Seconds per byte moved, of memory that is given back to the system."""

    def seconds(self, op: Op) -> float:
        curve = self.curves.get(op.kind) or self.curves["memory"]
        between = self.op_seconds * op.count + self.byte_seconds * op.bytes
        return op.count * curve.at(amount(op)) + between

    def stream(self, moved: float) -> float:
        return self.curves["memory"].at(moved)


def amount(op: Op) -> float:
    """What one operation's time depends on: its arithmetic where it has any, else its bytes."""
    return (op.flops or op.bytes) / max(op.count, 1)


def fit_curves(ops: Iterable[Op]) -> dict[str, Curve]:
    """A curve per kind through the mean amount and time of operations of similar amount."""
    buckets: dict[str, dict[int, list[Op]]] = defaultdict(lambda: defaultdict(list))
    for op in ops:
        if amount(op) > 0:
            buckets[op.kind][math.floor(math.log2(amount(op)))].append(op)
    curves = {}
    for kind, groups in buckets.items():
        points = [groups[bucket] for bucket in sorted(groups)]
        amounts = tuple(sum(map(amount, group)) / len(group) for group in points)
        seconds = tuple(sum(op.seconds for op in group) / len(group) for group in points)
        curves[kind] = Curve(amounts, seconds)
    return curves


def total(rates: Rates, ops: Iterable[Op], forward_only: bool = False) -> float:
    """Seconds of a list of operations; of the blocks' forward pass alone if asked."""
    return sum(rates.seconds(op) for op in ops if not forward_only or op.phase < LOSS)
