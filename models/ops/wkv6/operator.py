"""`wkv5` and `wkv6` as PyTorch sees them: argument checks, custom ops, fakes, autograd, FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from core.errors import UserError
from models.ops import backends
from models.ops.wkv6 import reference
from models.ops.wkv6.reference import CHUNK


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
    _check(name, r, w, k, v, u, state)
    compute = torch.float64 if r.dtype == torch.float64 else torch.float32
    w, u = w.to(compute), u.to(compute)
    if state is None:
        state = wkv6_initial_state(r.shape[0], r.shape[2], r.shape[3], r.device)
    state = state.to(compute)
    save = torch.is_grad_enabled() and any(x.requires_grad for x in (r, w, k, v, u, state))
    y, out, _ = torch.ops.crossover.wkv6(r, w, k, v, u, state, save, backend)
    return y, out


def _check(
    name: str, r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor | None
) -> None:
    """Raise `UserError` naming the first argument that does not fit."""
    if r.dim() != 4 or 0 in r.shape:
        raise UserError(f"{name}: r must be [B, T, H, N], none of them 0, got {list(r.shape)}")
    batch, _, heads, size = r.shape
    sequence, channels = tuple(r.shape), (heads, size)
    arguments = {"r": r, "w": w, "k": k, "v": v, "u": u}
    shapes: dict[str, tuple[int, ...]] = {
        "w": sequence if name == "wkv6" else channels,
        "k": sequence,
        "v": sequence,
        "u": channels,
    }
    if state is not None:
        arguments["state"], shapes["state"] = state, (batch, heads, size, size)
    for argument, shape in shapes.items():
        if arguments[argument].shape != shape:
            raise UserError(
                f"{name}: {argument} must be {list(shape)} to match r {list(r.shape)},"
                f" got {list(arguments[argument].shape)}"
            )
    for argument, tensor in arguments.items():
        if not tensor.is_floating_point():
            raise UserError(
                f"{name}: {argument} must be a floating-point tensor, got {tensor.dtype}"
            )
        if tensor.device != r.device:
            raise UserError(
                f"{name}: {argument} is on {tensor.device}, r on {r.device}: move one of them"
            )
        if argument in "kv" and tensor.dtype != r.dtype:
            raise UserError(f"{name}: {argument} must have r's dtype {r.dtype}, got {tensor.dtype}")


torch.library.define(
    "crossover::wkv6",
    "(Tensor r, Tensor w, Tensor k, Tensor v, Tensor u, Tensor state, bool save, str backend)"
    " -> (Tensor y, Tensor state_out, Tensor checkpoints)",
)
torch.library.define(
    "crossover::wkv6_backward",
    "(Tensor r, Tensor w, Tensor k, Tensor v, Tensor u, Tensor checkpoints,"
    " Tensor? grad_y, Tensor? grad_state, str backend)"
    " -> (Tensor grad_r, Tensor grad_w, Tensor grad_k, Tensor grad_v, Tensor grad_u,"
    " Tensor grad_state_in)",
)


@torch.library.impl("crossover::wkv6", "CompositeExplicitAutograd")
def _forward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    name = backends.resolve_for("wkv6", backend, r, r.shape[-1])
    if name != "reference":
        kernels = backends.kernels("wkv6", name)
        y, out, checkpoints = kernels.wkv6_forward(r, w, k, v, u, state, save)
    else:
        y, out, checkpoints = reference.wkv6_forward(r, w, k, v, u, state)
        y, checkpoints = y.to(r.dtype), checkpoints if save else checkpoints[:, :, :0].clone()
    if r.device.type == "cpu":
        _refuse_growth(w, out)
    return y, out, checkpoints


def _refuse_growth(w: Tensor, out: Tensor) -> None:
    """Raise `UserError` if w > 0 anywhere, which leaves NaN in the state after the last token.

    So where that is the smaller tensor, w itself is searched on suspicion only.
    """
    if (w.numel() <= out.numel() or out.isnan().any()) and (w > 0).any():
        raise UserError(f"wkv: w must not be positive anywhere, its largest value is {w.max():g}")


@torch.library.register_fake("crossover::wkv6")
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, size = r.shape
    chunks = (length + CHUNK - 1) // CHUNK if save else 0
    checkpoints = state.new_empty(batch, heads, chunks, size, size)
    return r.new_empty(r.shape), state.new_empty(state.shape), checkpoints


@torch.library.impl("crossover::wkv6_backward", "CompositeExplicitAutograd")
def _backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if grad_y is None:
        grad_y = torch.zeros_like(r)
    if grad_state is None:
        grad_state = torch.zeros_like(checkpoints[:, :, 0])
    name = backends.resolve_for("wkv6", backend, r, r.shape[-1])
    backward = (reference if name == "reference" else backends.kernels("wkv6", name)).wkv6_backward
    gr, gw, gk, gv, gu, gs = backward(r, w, k, v, u, checkpoints, grad_y, grad_state)
    return gr.to(r.dtype), gw, gk.to(r.dtype), gv.to(r.dtype), gu, gs


@torch.library.register_fake("crossover::wkv6_backward")
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gr, gw, gk, gv, gu = (x.new_empty(x.shape) for x in (r, w, k, v, u))
    return gr, gw, gk, gv, gu, checkpoints.new_empty(checkpoints[:, :, 0].shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, save, ctx.backend = inputs
    _, _, checkpoints = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(checkpoints)
    if save:
        ctx.save_for_backward(*tensors, checkpoints)


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_state is None:
        return (None,) * 8
    grads = torch.ops.crossover.wkv6_backward(*ctx.saved_tensors, grad_y, grad_state, ctx.backend)
    return *grads, None, None


torch.library.register_autograd("crossover::wkv6", _differentiate, setup_context=_setup_context)


def _count_forward(
    r: tuple[int, int, int, int], w: tuple[int, ...], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    return (wkv6_flops if len(w) == 4 else wkv5_flops)(*r)


def _count_backward(
    r: tuple[int, int, int, int], w: tuple[int, ...], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    return 2 * _count_forward(r, w)


register_flop_formula(torch.ops.crossover.wkv6)(_count_forward)
register_flop_formula(torch.ops.crossover.wkv6_backward)(_count_backward)
