"""Matrices in int8, for decoding on a CPU: a token costs one pass over the weights, and these are a
quarter of those in fp32.

Each row of a matrix `[out, in]` has one scale, its largest absolute value over 127, and every
weight is rounded to a whole number of it: an error of at most half a scale. Activations,
embeddings, norms, states and the small matrices of the RWKVs' mixes stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.decoding.program import is_possible

_LARGEST = 127


class Int8Linear(nn.Linear):
    """y = (s * Q) x + b for rows Q `[out, in]` of int8 and their scales s `[out]`.

    A single token is multiplied with the rows as they are (`models.decoding.program`); whoever
    reads `weight` gets all of it in floating point, so that a prompt is read with the same numbers.
    """

    rows: nn.Parameter
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """`layer` as it is now, rounded; its bias is shared."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        weight = layer.weight.detach()
        largest = weight.float().abs().amax(dim=1)  # [out]
        scales = torch.where(largest > 0, largest / _LARGEST, 1.0)
        rows = (weight.float() / scales[:, None]).round_().to(torch.int8)
        self.rows = nn.Parameter(rows, requires_grad=False)
        self.register_buffer("scales", scales)
        self.dtype = weight.dtype

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The rounded weights `[out, in]`, computed anew."""
        return (self.rows * self.scales[:, None]).to(self.dtype)


def round_to_int8(model: Any) -> None:
    """Replace the model's linear layers by `Int8Linear`, in place.

    Raises `UserError` if the model's tokens are not native steps: torch has no such product.
    """
    if not model.can_step:
        raise UserError(
            f"dtype=int8: {model.title} is decoded by torch, which has no product with rows of "
            "int8: use dtype=bfloat16"
        )
    if not is_possible(model):
        raise UserError(
            "dtype=int8 needs the native step of a CPU (accelerator=cpu, and a C++ compiler), "
            "which is not there: use dtype=bfloat16"
        )
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, Int8Linear(layer))
