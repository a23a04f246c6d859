"""`wkv7` as PyTorch sees it: argument checks, the custom ops, their fakes, autograd and FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from core.errors import UserError
from models.ops import backends
from models.ops.wkv7 import reference
from models.ops.wkv7.reference import CHUNK

FORWARD_FLOPS = 9
"""Operations per token and state element of the recurrence: S a (2), the decay (1), two outer
products added (4), S r (2)."""
BACKWARD_FLOPS = 2 * FORWARD_FLOPS


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
    _check(r, w, k, v, a, b, state)
    compute = torch.float64 if r.dtype == torch.float64 else torch.float32
    w = w.to(compute)
    if state is None:
        state = wkv7_initial_state(r.shape[0], r.shape[2], r.shape[3], device=r.device)
    state = state.to(compute)
    tensors = (r, w, k, v, a, b, state)
    save = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    y, out, _ = torch.ops.crossover.wkv7(*tensors, save, backend)
    return y, out


def wkv7_initial_state(
    batch: int, heads: int, size: int, device: torch.device | str | None = None
) -> Tensor:
    """The state `[B, H, N, N]` before the first token: zeros; fp32."""
    return torch.zeros(batch, heads, size, size, dtype=torch.float32, device=device)


def wkv7_flops(batch: int, length: int, heads: int, size: int) -> int:
    """Forward operations of the recurrence; what FlopCounterMode counts too."""
    return FORWARD_FLOPS * batch * length * heads * size * size


def _check(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None
) -> None:
    """Raise `UserError` naming the first argument that does not fit."""
    if r.dim() != 4 or 0 in r.shape:
        raise UserError(f"wkv7: r must be [B, T, H, N], none of them 0, got {list(r.shape)}")
    batch, _, heads, size = r.shape
    tensors = {"r": r, "w": w, "k": k, "v": v, "a": a, "b": b}
    if state is not None:
        tensors["state"] = state
    for name, x in tensors.items():
        shape = (batch, heads, size, size) if name == "state" else r.shape
        if x.shape != shape:
            match = f"{list(shape)} to match r {list(r.shape)}"
            raise UserError(f"wkv7: {name} must be {match}, got {list(x.shape)}")
        if not x.is_floating_point():
            raise UserError(f"wkv7: {name} must be a floating-point tensor, got {x.dtype}")
        if x.device != r.device:
            raise UserError(f"wkv7: {name} is on {x.device}, r on {r.device}: move one of them")
        if x.dtype != r.dtype and name not in ("w", "state"):
            raise UserError(f"wkv7: {name} must have r's dtype {r.dtype}, got {x.dtype}")


_INPUTS = "Tensor r, Tensor w, Tensor k, Tensor v, Tensor a, Tensor b"
torch.library.define(
    "crossover::wkv7",
    f"({_INPUTS}, Tensor state, bool save, str backend)"
    " -> (Tensor y, Tensor state_out, Tensor checkpoints)",
)
torch.library.define(
    "crossover::wkv7_backward",
    f"({_INPUTS}, Tensor checkpoints, Tensor? grad_y, Tensor? grad_state, str backend)"
    " -> (Tensor grad_r, Tensor grad_w, Tensor grad_k, Tensor grad_v, Tensor grad_a,"
    " Tensor grad_b, Tensor grad_state_in)",
)


@torch.library.impl("crossover::wkv7", "CompositeExplicitAutograd")
def _forward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if w.device.type == "cpu" and (largest := w.amax().item()) > 0:
        raise UserError(f"wkv7: w must be zero or negative, its largest value is {largest:g}")
    name = backends.resolve_for("wkv7", backend, r, r.shape[-1])
    if name != "reference":
        return backends.kernels("wkv7", name).wkv7_forward(r, w, k, v, a, b, state, save)
    y, out, checkpoints = reference.wkv7_forward(r, w, k, v, a, b, state)
    return y.to(r.dtype).contiguous(), out, checkpoints if save else checkpoints[:, :0].clone()


@torch.library.register_fake("crossover::wkv7")
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, size = r.shape
    chunks = (length + CHUNK - 1) // CHUNK if save else 0
    checkpoints = state.new_empty(batch, chunks, heads, size, size)
    return r.new_empty(r.shape), state.new_empty(state.shape), checkpoints


@torch.library.impl("crossover::wkv7_backward", "CompositeExplicitAutograd")
def _backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    checkpoints: Tensor,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, ...]:
    if grad_y is None:
        grad_y = torch.zeros_like(r)
    if grad_state is None:
        grad_state = torch.zeros_like(checkpoints[:, 0])
    name = backends.resolve_for("wkv7", backend, r, r.shape[-1])
    backward = (reference if name == "reference" else backends.kernels("wkv7", name)).wkv7_backward
    gr, gw, gk, gv, ga, gb, gs = backward(r, w, k, v, a, b, checkpoints, grad_state, grad_y)
    gr, gk, gv, ga, gb = (x.to(r.dtype).contiguous() for x in (gr, gk, gv, ga, gb))
    return gr, gw.contiguous(), gk, gv, ga, gb, gs


@torch.library.register_fake("crossover::wkv7_backward")
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    checkpoints: Tensor,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, ...]:
    grads = [x.new_empty(x.shape) for x in (r, w, k, v, a, b)]
    batch, _, heads, size = r.shape
    return *grads, checkpoints.new_empty(batch, heads, size, size)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, save, ctx.backend = inputs
    checkpoints = output[2]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(checkpoints)
    if save:
        ctx.save_for_backward(*tensors, checkpoints)


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_state is None:
        return (None,) * 9
    grads = torch.ops.crossover.wkv7_backward(*ctx.saved_tensors, grad_y, grad_state, ctx.backend)
    return *grads, None, None


torch.library.register_autograd("crossover::wkv7", _differentiate, setup_context=_setup_context)


def _count_forward(
    r: tuple[int, int, int, int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    return wkv7_flops(*r)


def _count_backward(
    r: tuple[int, int, int, int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    return wkv7_flops(*r) * BACKWARD_FLOPS // FORWARD_FLOPS


register_flop_formula(torch.ops.crossover.wkv7)(_count_forward)
register_flop_formula(torch.ops.crossover.wkv7_backward)(_count_backward)
