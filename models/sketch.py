"""What a model amounts to, without building it: a stack of any depth takes no time to judge.

A deep one is counted by its first two layers. Every layer after the first is taken to be like the
second, so a count of the whole is that of one layer plus, for each further one, the difference
between two and one. Where layers differ, the same is done with the layers of a whole period.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from models import layer_pattern
from models.meta import build_meta, parameters
from models.registry import ModelSpec

EXACT = 64  # layers up to which every one is counted: it takes about a second


@dataclass(frozen=True)
class Sketch:
    """A model that was never built."""

    parameters: int
    length_field: str
    """See `models.contract.Model.length_field`."""
    positions: int | None
    """The longest context that it can read; None: any."""


_SKETCHES: dict[str, Sketch] = {}


def sketch(spec: ModelSpec) -> Sketch:
    """Raises what building the model would raise of its sizes."""
    key = json.dumps([spec.target, spec.config], sort_keys=True)
    if key not in _SKETCHES:
        stack = Stack(spec, build_meta)
        field = stack.first.length_field
        positions = getattr(stack.first.config, field) if field else None
        _SKETCHES[key] = Sketch(stack.whole(parameters), field, positions)
    return _SKETCHES[key]


class Stack:
    """A model as far as it takes to count it."""

    def __init__(self, spec: ModelSpec, build: Callable[[ModelSpec], Any]) -> None:
        self.layers: int = spec.config["n_layer"]
        period = layer_pattern.period(spec.config)
        few = period + self.layers % period
        is_deep = self.layers > max(EXACT, few)
        depths = (few, few + period) if is_deep else (self.layers,)
        self._more = (self.layers - few) // period
        models = [
            build(replace(spec, config={**spec.config, "n_layer": depth})) for depth in depths
        ]
        self.first, self.last = models[0], models[-1]
        """With one period of layers and with two, or both times the whole."""

    def whole(self, count: Callable[[Any], int]) -> int:
        """`count` of the whole model, where it is a sum over the layers and the rest."""
        shallow = count(self.first)
        if self.first is self.last:
            return shallow
        return shallow + self._more * (count(self.last) - shallow)
