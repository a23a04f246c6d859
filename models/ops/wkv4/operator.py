"""`wkv4` as PyTorch sees it: argument checks, custom ops, gradient and FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.custom_op import check_operands, shapes
from models.ops.intercept import mixer
from models.ops.recurrence import Recurrence
from models.ops.wkv4 import reference

FORWARD_FLOPS = 23
"""Operations per token and channel of the stable recurrence, exponentials counted as one each."""


@mixer
def wkv4(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The WKV-4 operator: an exponentially decayed, softmax-weighted mean of past values.

    Args:
        w: `[C]` log-decay per token, negative (`-exp(time_decay)`), fp32.
        u: `[C]` bonus of the current token (`time_first`), fp32.
        k, v: `[B, T, C]`, one of fp32, bf16, fp16 (fp64: reference back end); same dtype.
        state: `[B, 3, C]` fp32, rows (aa, bb, pp) with a = aa e^pp and b = bb e^pp; None: the
            state before the first token. pp is a scale: it gets no gradient.
        backend: auto | reference | cpu | cuda, see `models.ops.backends.resolve`.

    Returns:
        y `[B, T, C]` in v's dtype, and the state after the last token. Arithmetic is in fp32.

    A NaN in k or v makes the rest of its own channel NaN and nothing else. On a GPU, where an
    error would need a host synchronisation, so does w >= 0.

    Raises `UserError` naming the argument that is wrong, or the back end that cannot work.
    Source: RWKV (Peng et al., 2023, arXiv:2305.13048), the WKV operator and its stable form.
    """
    given = (k, w, u, v) if state is None else (k, w, u, v, state)
    check_operands("wkv4", _SHAPES, given, same_dtype="v")
    if state is None:
        state = wkv4_initial_state(k.shape[0], k.shape[2], device=k.device)
    compute = torch.float64 if k.dtype == torch.float64 else torch.float32
    w, u, state = w.to(compute), u.to(compute), state.to(compute)
    return _wkv4((w, u, k, v), state, backend)


def wkv4_initial_state(
    batch: int, channels: int, device: torch.device | str | None = None
) -> Tensor:
    """The state `[B, 3, C]` before the first token: aa = bb = 0, pp = -1e38; fp32."""
    state = torch.zeros(batch, 3, channels, dtype=torch.float32, device=device)
    state[:, 2] = reference.EMPTY_EXPONENT
    return state


def wkv4_flops(batch: int, length: int, channels: int) -> int:
    """Forward operations of the recurrence; what FlopCounterMode counts too."""
    return FORWARD_FLOPS * batch * length * channels


class _WKV4(Recurrence):
    keeps_end = True

    def refuse(self, inputs: Sequence[Tensor]) -> None:
        w = inputs[0]
        if bool((w >= 0).any()):
            raise UserError(
                f"wkv4: w must be negative everywhere, its largest value is {w.max():g}"
            )

    def adjoint(self, grad_state: Tensor | None, kept: Sequence[Tensor]) -> Tensor:
        """Gradients of the true sums: dL/da = e^-pp dL/daa, because a = aa e^pp."""
        end = kept[1]  # [B, 3, C]
        if grad_state is None:
            return reference.pack(reference.empty(end[:, 0]))
        return torch.cat([grad_state[:, :2], -end[:, 2:]], dim=1)

    def grad_state_in(self, adjoint: Tensor, checkpoints: Tensor) -> Tensor:
        """Back to gradients of aa and bb; pp has none."""
        scale = torch.exp(adjoint[:, 2:] + checkpoints[:, 0, 2:])  # [B, 1, C]
        return torch.cat([adjoint[:, :2] * scale, torch.zeros_like(scale)], dim=1)


_SHAPES = shapes(k="B T C", w="C", u="C", v="B T C", state="B 3 C")
_wkv4 = _WKV4("wkv4", "w u k v", "k", reference, 1, lambda w, u, k, v: wkv4_flops(*k), heads=False)
