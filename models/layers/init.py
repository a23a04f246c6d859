"""Initialisation and optimizer groups that the attention models share."""

from __future__ import annotations

import math

from torch import nn

from models.contract import ParamGroup


def init_normal(
    model: nn.Module, n_layer: int, residual: tuple[str, ...], std: float = 0.02
) -> None:
    """GPT-2's initialisation (Radford et al. 2019, section 2.3), in place.

    Every matrix is N(0, std); those whose name ends in `residual` are scaled by 1/sqrt(2 L), so
    that the residual stream does not grow with depth; biases are 0 and norms keep weight 1.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            scale = 1 / math.sqrt(2 * n_layer) if name.endswith(residual) else 1.0
            nn.init.normal_(parameter, std=std * scale)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def split_decay(model: nn.Module) -> list[ParamGroup]:
    """Matrices decay, vectors do not: the usual AdamW grouping of Transformers."""
    matrices = [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]
    vectors = [name for name, parameter in model.named_parameters() if parameter.ndim < 2]
    return [ParamGroup(tuple(matrices), decay=True), ParamGroup(tuple(vectors))]
