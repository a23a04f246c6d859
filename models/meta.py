"""Models without memory: what one amounts to, counted without building it.

A sketch takes no time for any depth. A deep model is counted by its first two layers: every layer
after the first is taken to be like the second, so a count of the whole is that of one layer plus,
for each further one, the difference between two and one. Where layers differ, the same is done with
the layers of a whole period.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models import layer_pattern
from models.contract import most_tokens
from models.registry import ModelSpec, build

EXACT = 64  # layers up to which every one is counted: it takes about a second
FILLS = frozenset(
    getattr(nn.init, name) for name in ("constant_", "kaiming_uniform_", "normal_", "uniform_")
) | {torch.Tensor.normal_, torch.Tensor.uniform_}


class Uninitialised(TorchFunctionMode):
    """Initialisers leave tensors as they are.

    There is nothing to fill on the meta device, and there they would import the compiler, which
    takes seconds.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in FILLS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def build_meta(spec: ModelSpec) -> Any:
    """The model that `spec` describes on the meta device. Raises what `build` raises."""
    with torch.device("meta"), Uninitialised():
        return build(spec)


def parameters(model: Any) -> int:
    """Count the parameters of the whole model: embedding, positions and head too."""
    return sum(parameter.numel() for parameter in model.parameters())


def linear_weights(model: nn.Module) -> list[torch.Tensor]:
    """The weights of linear layers that are no embeddings too: what mixed precision rounds before
    each use."""
    linear, tables = (
        {id(each.weight): each.weight for each in model.modules() if isinstance(each, kind)}
        for kind in (nn.Linear, nn.Embedding)
    )
    return [weight for key, weight in linear.items() if key not in tables]


def count_parameters(spec: ModelSpec) -> int:
    """`parameters` of the model that `spec` describes. Raises what `build` raises, and whatever the
    model's constructor does."""
    return parameters(build_meta(spec))


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
        first = stack.first
        _SKETCHES[key] = Sketch(stack.whole(parameters), first.length_field, most_tokens(first))
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
