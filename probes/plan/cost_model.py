"""The cost of a step at sizes too long to trace, by exact scaling of short traces.

Bytes and operations of one step are a straight line in sequences and in layers, and in tokens a
line or, where attention keeps or computes every score, a parabola. So a few short traces, combined
with the weights of the polynomial through them, give every operation at any length. Memory is
combined moment by moment, and the largest moment is searched for afterwards, because the peak may
move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import inf
from typing import Any, cast

import numpy
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorMode

from core.errors import UserError
from models.contract import state_bytes
from models.layer_pattern import largest_window, period
from models.layers.loss import chunk_tokens
from models.meta import Stack, linear_weights, parameters
from models.registry import ModelSpec, build, is_recurrent
from models.step_trace import BELOW, EARLIER, LOSS, Op, trace

DIRECT_LENGTH, DIRECT_TOKENS = 2048, 8192  # traced as they are, up to these
LAYERS = (2, 3)  # traced; a first block and one or two above it, or as many periods of blocks
SCALES = 0.03  # how far a scaled trace may be off where the number of operations grows
VALUES = ("flops", "bytes", "activations", "gradients")


@dataclass(frozen=True)
class ModelSizes:
    """Parameters of the whole model, and of what a sharded one gathers at a time."""

    parameters: int
    block: int
    """Bytes of the largest block."""
    root: int
    """Bytes of what is in no block: embedding, final norm, head."""
    matrices: int
    """Parameters of linear layers, which mixed precision rounds before each use."""
    state_bytes: int
    """Carried from one token to the next by one sequence; of a recurrent model, else 0."""
    forward_flops: int
    """Forward FLOPs of one sequence, as the model counts them (causal work exactly)."""


@dataclass(frozen=True)
class StepCost:
    """One step of one device."""

    layers: int
    """Where layers differ, in periods of them, what is over counted with the first two."""
    ops: dict[int, list[Op]]
    """By number of layers traced, in the same unit."""

    @cached_property
    def moments(self) -> NDArray[numpy.float64]:
        """`[moment, 2]`: bytes of activations and of gradients alive, wherever they may be most."""
        # From the last block's forward pass on. Of the blocks below it only the lowest one's
        # backward pass is asked for later: in between, memory goes straight from one to the other,
        # block by block.
        few, more = (
            numpy.array(
                [(op.activations, op.gradients) for op in self.ops[layers] if op.phase != EARLIER]
            )
            for layers in LAYERS
        )
        falling = sum(op.phase == BELOW for op in self.ops[LAYERS[0]])
        rising = len(few) - falling
        more = numpy.concatenate([more[:rising], more[-falling:]])
        return few + (self.layers - LAYERS[0]) * (more - few)


@dataclass(frozen=True)
class CostModel:
    """A model on a kind of device, at a precision of training."""

    spec: ModelSpec
    device: str
    precision: str

    def sizes(self, length: int) -> ModelSizes:
        """Raises `UserError` if the model cannot be built."""
        with FakeTensorMode():
            stack = Stack(self.spec, build)
            states = 0
            if self.recurrent:
                states = stack.whole(lambda model: state_bytes(model.init_state(1)))
            forward = stack.whole(lambda model: model.flops(1, length))
            total = stack.whole(parameters)
            matrices = stack.whole(
                lambda model: sum(weight.numel() for weight in linear_weights(model))
            )
            blocks = [parameters(block) for block in cast(Any, stack.last).blocks]
            root = parameters(stack.last) - sum(blocks)
        return ModelSizes(total, max(blocks), root, matrices, states, forward)

    @property
    def recurrent(self) -> bool:
        """Whether a state of constant size is all that one segment leaves to the next."""
        return is_recurrent(self.spec.target, self.spec.config)

    @property
    def _chunk(self) -> int:
        """Tokens after which the loss needs no more memory, but more operations."""
        return chunk_tokens(self.device, self.spec.config["vocab_size"])

    def work(self, batch: int, length: int, checkpointing: bool) -> StepCost:
        """Forward and backward on `[batch, length]` tokens."""
        lengths, batches = self._traced_lengths(length), [batch]
        if batch * length > DIRECT_TOKENS and batch > 1:
            fewest = max(2, 2 * self._chunk // length)  # a single sequence saves some copies
            batches = [fewest, 2 * fewest]
        weights = {
            (b, t): of_batch * of_length
            for (b, of_batch), (t, of_length) in product(
                zip(batches, _weights(batches, batch), strict=True),
                zip(lengths, _weights(lengths, length), strict=True),
            )
        }
        ops = {}
        for layers in LAYERS:
            depth = self._depth(layers)
            traces = [
                (weight, _shorten(self._trace(b, t, depth, checkpointing)))
                for (b, t), weight in weights.items()
            ]
            if not _are_alike(traces):
                traces = [(weight, _by_kind(ops)) for weight, ops in traces]
                if layers == LAYERS[0]:
                    self._check_scaling(length, batches, lengths, checkpointing)
            ops[layers] = _combine(traces)
        beyond = self.spec.config["n_layer"] - self._depth(LAYERS[0])
        return StepCost(LAYERS[0] + beyond // self._period, ops)

    @property
    def _period(self) -> int:
        """Layers after which the stack repeats itself."""
        return period(self.spec.config)

    def _depth(self, periods: int) -> int:
        """Layers of so many periods, and of what the whole has beyond whole periods."""
        return periods * self._period + self.spec.config["n_layer"] % self._period

    def _check_scaling(
        self, length: int, batches: list[int], lengths: list[int], checkpointing: bool
    ) -> None:
        """Raise `UserError` unless the scaled traces predict a shorter trace correctly."""
        half, batch, layers = lengths[0] // 2, batches[0], self._depth(LAYERS[0])
        traces = [
            (weight, _by_kind(self._trace(batch, length, layers, checkpointing)))
            for length, weight in zip(lengths, _weights(lengths, half), strict=True)
        ]
        real = sum(op.bytes for op in self._trace(batch, half, layers, checkpointing))
        scaled = sum(op.bytes for op in _combine(traces)) if _are_alike(traces) else inf
        if abs(scaled / real - 1) > SCALES:
            raise UserError(
                f"{self.spec.name} cannot be planned at {length:,} tokens: its operations at "
                f"{half:,} tokens do not follow from those at {' and '.join(map(str, lengths))}; "
                f"plan {DIRECT_LENGTH:,} tokens at most"
            )

    def _trace(self, batch: int, length: int, layers: int, checkpointing: bool) -> list[Op]:
        where = (batch, length, layers, self.device, self.precision, checkpointing)
        key = (repr(self.spec), *where)
        if key not in _TRACES:
            _TRACES[key] = trace(self.spec, *where)
        return _TRACES[key]

    def _traced_lengths(self, length: int) -> list[int]:
        window = largest_window(self.spec.config) or 0
        shortest = max(1, -(-2 * self._chunk // max(2 * window, 1))) * 2 * window
        shortest = shortest or 2 * self._chunk
        if length <= max(DIRECT_LENGTH, 2 * shortest):
            return [length]
        return [shortest * factor for factor in ((1, 2) if self.recurrent else (1, 2, 4))]


_TRACES: dict[tuple[object, ...], list[Op]] = {}


def _weights(at: list[int], target: int) -> list[float]:
    """Lagrange weights: how much each sampled value contributes to the value at `target`."""
    return [
        float(numpy.prod([(target - other) / (place - other) for other in at if other != place]))
        for place in at
    ]


def _shorten(ops: list[Op]) -> list[Op]:
    """The trace with the operations of the loss, whose number depends on the tokens, summed by
    kind."""
    loss = [op for op in ops if op.phase == LOSS]
    summed: list[Op] = []
    for kind in sorted({op.kind for op in loss}):
        of_kind = [op for op in loss if op.kind == kind]
        summed.append(
            replace(
                of_kind[0],
                count=len(of_kind),
                flops=sum(op.flops for op in of_kind),
                bytes=sum(op.bytes for op in of_kind),
                activations=max(op.activations for op in loss),
            )
        )
    before = [op for op in ops if op.phase < LOSS]
    return [*before, *summed, *(op for op in ops if op.phase > LOSS)]


def _are_alike(traces: list[tuple[float, list[Op]]]) -> bool:
    """Whether all hold the same operations."""
    return len({tuple((op.kind, op.phase) for op in ops) for _, ops in traces}) == 1


def _by_kind(ops: list[Op]) -> list[Op]:
    """Operations summed by phase and kind, each at its fullest moment, for a model that loops over
    tokens."""
    groups: dict[tuple[int, str], list[Op]] = {}
    for op in ops:
        groups.setdefault((op.phase, op.kind), []).append(op)
    return [
        replace(
            max(alike, key=lambda op: op.activations + op.gradients),
            count=sum(op.count for op in alike),
            flops=sum(op.flops for op in alike),
            bytes=sum(op.bytes for op in alike),
        )
        for _, alike in sorted(groups.items())
    ]


def _combine(traces: list[tuple[float, list[Op]]]) -> list[Op]:
    """The weighted sum of traces, operation by operation."""
    first = traces[0][1]
    assert _are_alike(traces), "they must hold the same operations"
    columns = [
        [[op.count, *(getattr(op, name) for name in VALUES)] for op in ops] for _, ops in traces
    ]
    weights = numpy.array([weight for weight, _ in traces])
    summed = numpy.tensordot(weights, numpy.array(columns), axes=1)
    return [
        replace(op, count=row[0], **dict(zip(VALUES, row[1:], strict=True)))
        for op, row in zip(first, summed.tolist(), strict=True)
    ]
