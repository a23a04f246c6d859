"""Precision 16-mixed: losses are scaled so that fp16 gradients neither vanish nor overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins import precision
from torch import Tensor

SMALLEST_SCALE = 1e-4
"""A gradient that overflows with a smaller scale than this is infinite whatever the scale (fairseq
ends a training here too)."""


class MixedPrecision(precision.MixedPrecision):
    """Lightning's plugin, which takes the scale out of the gradients before they are looked at.

    Lightning leaves that to fused optimizers, whose step can do it: gradients would be clipped, and
    their norm logged, with the scale in them. The class has Lightning's name because checkpoints
    keep the scale, its growth and their count under it.
    """

    def __init__(self, device: str) -> None:
        """`device` is `cuda` or `cpu`."""
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Differentiate, unscale, look at the gradients and clip them, step, adapt the scale.

        The scaler takes no step where a gradient of any process is not finite.
        """
        assert self.scaler is not None
        loss = closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return loss


def overflows(plugin: Any, grad_norm: Tensor) -> Tensor:
    """Whether a gradient of this norm only has too large a scale, which the scaler will lower.

    False where there is no scale, and where it cannot be the scale's fault.
    """
    scaler = getattr(plugin, "scaler", None)
    if scaler is None or scaler.get_scale() < SMALLEST_SCALE:
        return torch.zeros_like(grad_norm, dtype=torch.bool)
    return ~grad_norm.isfinite()
