"""`wkv4` as PyTorch sees it: argument checks, the custom ops, their fakes, autograd and FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from core.errors import UserError
from models.ops import backends
from models.ops.wkv4 import reference
from models.ops.wkv4.reference import CHUNK

FORWARD_FLOPS = 23
"""Operations per token and channel of the stable recurrence, exponentials counted as one each."""
BACKWARD_FLOPS = 2 * FORWARD_FLOPS


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
    _check(w, u, k, v, state)
    compute = torch.float64 if k.dtype == torch.float64 else torch.float32
    w, u = w.to(compute), u.to(compute)
    if state is None:
        state = wkv4_initial_state(k.shape[0], k.shape[2], device=k.device)
    state = state.to(compute)
    save = torch.is_grad_enabled() and any(x.requires_grad for x in (w, u, k, v, state))
    y, out, _ = torch.ops.crossover.wkv4(w, u, k, v, state, save, backend)
    return y, out


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


def _check(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> None:
    """Raise `UserError` naming the first argument that does not fit."""
    if k.dim() != 3 or 0 in k.shape:
        raise UserError(f"wkv4: k must be [B, T, C], none of them 0, got {list(k.shape)}")
    batch, _, channels = k.shape
    expected = {"w": (w, [channels]), "u": (u, [channels]), "v": (v, list(k.shape))}
    if state is not None:
        expected["state"] = (state, [batch, 3, channels])
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise UserError(
                f"wkv4: {name} must be {shape} to match k {list(k.shape)}, got {list(tensor.shape)}"
            )
    for name, tensor in {"k": k, **{name: pair[0] for name, pair in expected.items()}}.items():
        if not tensor.is_floating_point():
            raise UserError(f"wkv4: {name} must be a floating-point tensor, got {tensor.dtype}")
        if tensor.device != k.device:
            raise UserError(
                f"wkv4: {name} is on {tensor.device}, k on {k.device}: move one of them"
            )
    if v.dtype != k.dtype:
        raise UserError(f"wkv4: v must have k's dtype {k.dtype}, got {v.dtype}")


torch.library.define(
    "crossover::wkv4",
    "(Tensor w, Tensor u, Tensor k, Tensor v, Tensor state, bool save, str backend)"
    " -> (Tensor y, Tensor state_out, Tensor checkpoints)",
)
torch.library.define(
    "crossover::wkv4_backward",
    "(Tensor w, Tensor u, Tensor k, Tensor v, Tensor checkpoints, Tensor state_out,"
    " Tensor? grad_y, Tensor? grad_state, str backend)"
    " -> (Tensor grad_w, Tensor grad_u, Tensor grad_k, Tensor grad_v, Tensor grad_state_in)",
)


@torch.library.impl("crossover::wkv4", "CompositeExplicitAutograd")
def _forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if k.device.type == "cpu" and bool((w >= 0).any()):
        raise UserError(f"wkv4: w must be negative everywhere, its largest value is {w.max():g}")
    name = backends.resolve_for("wkv4", backend, k)
    if name != "reference":
        return backends.kernels("wkv4", name).wkv4_forward(w, u, k, v, state, save)
    y, out, checkpoints = reference.wkv4_forward(w, u, k, v, state)
    return y.to(v.dtype), out, checkpoints if save else checkpoints[:, :0].clone()


@torch.library.register_fake("crossover::wkv4")
def _(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, channels = k.shape
    chunks = (length + CHUNK - 1) // CHUNK if save else 0
    y = v.new_empty(batch, length, channels)
    return y, state.new_empty(state.shape), state.new_empty(batch, chunks, 3, channels)


@torch.library.impl("crossover::wkv4_backward", "CompositeExplicitAutograd")
def _backward(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    state_out: Tensor,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if grad_state is None:
        adjoint = reference.pack(reference.empty(state_out[:, 0]))
    else:  # dL/da = e^-pp dL/daa, because a = aa e^pp
        adjoint = torch.cat([grad_state[:, :2], -state_out[:, 2:]], dim=1)
    if grad_y is None:
        grad_y = torch.zeros_like(v)
    name = backends.resolve_for("wkv4", backend, k)
    backward = (reference if name == "reference" else backends.kernels("wkv4", name)).wkv4_backward
    gw, gu, gk, gv, before = backward(w, u, k, v, checkpoints, adjoint, grad_y)
    scale = torch.exp(before[:, 2:] + checkpoints[:, 0, 2:])  # back to aa, bb of the state given
    grad_in = torch.cat([before[:, :2] * scale, torch.zeros_like(scale)], dim=1)
    return gw, gu, gk.to(k.dtype), gv.to(v.dtype), grad_in


@torch.library.register_fake("crossover::wkv4_backward")
def _(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    state_out: Tensor,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shaped = (w, u, k, v, state_out)
    gw, gu, gk, gv, gs = (x.new_empty(x.shape) for x in shaped)
    return gw, gu, gk, gv, gs


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    w, u, k, v, _, save, ctx.backend = inputs
    _, state_out, checkpoints = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(checkpoints)
    if save:
        ctx.save_for_backward(w, u, k, v, checkpoints, state_out)


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_state is None:
        return (None,) * 7
    grads = torch.ops.crossover.wkv4_backward(*ctx.saved_tensors, grad_y, grad_state, ctx.backend)
    return *grads, None, None


torch.library.register_autograd("crossover::wkv4", _differentiate, setup_context=_setup_context)


def _count_forward(
    w: Any, u: Any, k: tuple[int, int, int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    return wkv4_flops(*k)


def _count_backward(
    w: Any, u: Any, k: tuple[int, int, int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    batch, length, channels = k
    return BACKWARD_FLOPS * batch * length * channels


register_flop_formula(torch.ops.crossover.wkv4)(_count_forward)
register_flop_formula(torch.ops.crossover.wkv4_backward)(_count_backward)
