"""`wkv7` as PyTorch sees it: argument checks, custom ops, gradient and FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.custom_op import check_operands, shapes
from models.ops.intercept import mixer
from models.ops.recurrence import Recurrence
from models.ops.wkv7 import reference

FORWARD_FLOPS = 9
"""Operations per token and state element of the recurrence: S a (2), the decay (1), two outer
products added (4), S r (2)."""


@mixer
def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The WKV-7 operator: a matrix state that decays, unlearns along a and learns v at k.

    Per head, S_t = S_{t-1} diag(e^{w_t}) + (S_{t-1} a_t) b_t^T + v_t k_t^T and y_t = S_t r_t.

    Args:
        r, k, v, a, b: `[B, T, H, N]`, one of fp32, bf16, fp16 (fp64: reference back end), all of
            one dtype. In RWKV-7 a is minus the normalised removal key and b that key times the
            in-context learning rate.
        w: `[B, T, H, N]` log-decay of every key channel, zero or negative, fp32.
        state: `[B, H, N, N]` fp32, rows are value channels, columns key channels; None: zeros.
        backend: auto | reference | cpu | cuda, see `models.ops.backends.resolve`.

    Returns:
        y `[B, T, H, N]` in r's dtype, and the state after the last token. Arithmetic is in fp32.

    Any w <= 0 is exact, -inf included: chunks are shortened where decays are too strong for them.
    A NaN stays in its sequence and head. On a GPU, where an error would need a host
    synchronisation, w > 0 is not refused.

    Raises `UserError` naming the argument that is wrong, or the back end that cannot work.
    Source: RWKV-7 (Peng et al., 2025, arXiv:2503.14456), the generalised delta rule.
    """
    given = (r, w, k, v, a, b) if state is None else (r, w, k, v, a, b, state)
    check_operands("wkv7", _SHAPES, given, same_dtype="kvab")
    if state is None:
        batch, _, heads, size = r.shape
        state = r.new_zeros(batch, heads, size, size, dtype=torch.float32)
    compute = torch.float64 if r.dtype == torch.float64 else torch.float32
    return _wkv7((r, w.to(compute), k, v, a, b), state.to(compute), backend)


def wkv7_initial_state(
    batch: int, heads: int, size: int, device: torch.device | str | None = None
) -> Tensor:
    """The state `[B, H, N, N]` before the first token: zeros; fp32."""
    return torch.zeros(batch, heads, size, size, dtype=torch.float32, device=device)


def wkv7_flops(batch: int, length: int, heads: int, size: int) -> int:
    """Forward operations of the recurrence; what FlopCounterMode counts too."""
    return FORWARD_FLOPS * batch * length * heads * size * size


class _WKV7(Recurrence):
    def refuse(self, inputs: Sequence[Tensor]) -> None:
        if (largest := inputs[1].amax().item()) > 0:
            raise UserError(f"wkv7: w must be zero or negative, its largest value is {largest:g}")


_TOKENS = "B T H N"
_SHAPES = shapes(r=_TOKENS, w=_TOKENS, k=_TOKENS, v=_TOKENS, a=_TOKENS, b=_TOKENS, state="B H N N")
_wkv7 = _WKV7("wkv7", "r w k v a b", "r", reference, 1, lambda r, *_: wkv7_flops(*r))
