"""Models without memory: names, shapes and counts of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models.registry import ModelSpec, build

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
