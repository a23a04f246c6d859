"""`wkv5` and `wkv6` as PyTorch sees them: argument checks, custom ops, gradient and FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from models.ops.custom_op import check_operands, shapes
from models.ops.intercept import mixer
from models.ops.recurrence import Recurrence
from models.ops.wkv6 import reference


@mixer
def wkv6(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The WKV-6 operator: a matrix state per head, decayed per key channel and token.

        y_t = (S_{t-1} + (u * k_t) v_t^T)^T r_t            S_t = diag(e^{w_t}) S_{t-1} + k_t v_t^T

    Args:
        r, k, v: `[B, T, H, N]`, one of fp32, bf16, fp16 (fp64: reference back end); same dtype.
        w: `[B, T, H, N]` log-decay, not positive (`-exp(...)`), fp32; from 0 to -inf.
        u: `[H, N]` bonus of the current token (`time_faaaa`), fp32.
        state: `[B, H, N, N]` fp32, key before value; None: zeros.
        backend: auto | reference | cpu | cuda, see `models.ops.backends.resolve`. CUDA kernels
            exist for N of 32, 64 and 128.

    Returns:
        y `[B, T, H, N]` in r's dtype, and the state after the last token. Arithmetic is in fp32.

    A NaN makes NaN, from its token on, what depends on it in its own head and sequence, and
    nothing else. On a GPU, where an error would need a host synchronisation, so does w > 0.

    Raises `UserError` naming the argument that is wrong, or the back end that cannot work.
    Source: Eagle and Finch (Peng et al., 2024, arXiv:2404.05892), section 4.
    """
    return _wkv("wkv6", r, w, k, v, u, state, backend)


@mixer
def wkv5(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The WKV-5 operator: as `wkv6`, with a decay that is constant in time, w `[H, N]`."""
    return _wkv("wkv5", r, w, k, v, u, state, backend)


def wkv6_initial_state(
    batch: int, heads: int, size: int, device: torch.device | str | None = None
) -> Tensor:
    """The state `[B, H, N, N]` before the first token: zeros, fp32."""
    return torch.zeros(batch, heads, size, size, dtype=torch.float32, device=device)


def wkv5_flops(batch: int, length: int, heads: int, size: int) -> int:
    """Forward operations of the recurrence; what FlopCounterMode counts too.

    Per token and head 5 N^2: read S (2), decay it (1), add k v^T (2); and 5 N for the bonus.
    """
    return batch * length * heads * (5 * size * size + 5 * size)


def wkv6_flops(batch: int, length: int, heads: int, size: int) -> int:
    """Count `wkv5_flops`, and one exponential per token and channel."""
    return wkv5_flops(batch, length, heads, size) + batch * length * heads * size


def _wkv(
    name: str,
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    given = (r, w, k, v, u) if state is None else (r, w, k, v, u, state)
    check_operands(name, _SHAPES[name], given, same_dtype="kv")
    if state is None:
        batch, _, heads, size = r.shape
        state = r.new_zeros(batch, heads, size, size, dtype=torch.float32)
    compute = torch.float64 if r.dtype == torch.float64 else torch.float32
    w, u, state = w.to(compute), u.to(compute), state.to(compute)
    return _wkv6((r, w, k, v, u), state, backend)


class _WKV6(Recurrence):
    def refuse_after(self, inputs: Sequence[Tensor], state: Tensor) -> None:
        """w > 0 leaves NaN in the last state; where that is smaller, w is searched only then."""
        w = inputs[1]
        if (w.numel() <= state.numel() or state.isnan().any()) and (w > 0).any():
            raise UserError(
                f"wkv: w must not be positive anywhere, its largest value is {w.max():g}"
            )


_TOKENS = {"k": "B T H N", "v": "B T H N", "u": "H N", "state": "B H N N"}
_SHAPES = {
    "wkv5": shapes(r="B T H N", w="H N", **_TOKENS),
    "wkv6": shapes(r="B T H N", w="B T H N", **_TOKENS),
}
_wkv6 = _WKV6(
    "wkv6",
    "r w k v u",
    "r",
    reference,
    2,
    lambda r, w, *_: (wkv6_flops if len(w) == 4 else wkv5_flops)(*r),
)
