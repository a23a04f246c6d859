"""The elementwise work around the WKV operator and around attention, each in one pass over memory.

Both families get the same care, or the comparison would measure it.

On a CPU these cost more than the recurrence when written as chains of torch operations. Each is a
custom op with an exact backward: native C++ where it can be built, plain torch elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models import pointwise_cpu as cpu
from models.errors import UserError
from models.wkv import backends

MOST_MIXES = 6
_NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def token_shift_mix(z: Tensor, previous: Tensor | None, mu: Tensor) -> tuple[Tensor, ...]:
    """Blend every token with the one before it, in M different proportions.

    Args:
        z: `[B, T, C]`.
        previous: `[B, C]`, the token before the first; None: zeros.
        mu: `[M, C]`, share of the current token, 1 <= M <= 6.

    Returns:
        M tensors `[B, T, C]` in z's dtype: mix_m = z mu_m + prev (1 - mu_m), prev_t = z_{t-1}.

    Raises `UserError` naming an argument that does not fit.
    """
    batch, _, channels = z.shape
    if mu.dim() != 2 or mu.shape[1] != channels or not 1 <= mu.shape[0] <= MOST_MIXES:
        raise UserError(
            f"token_shift_mix: mu must be [M, {channels}] with M from 1 to {MOST_MIXES}, "
            f"got {list(mu.shape)}"
        )
    if previous is None:
        previous = z.new_zeros(batch, channels)
    elif list(previous.shape) != [batch, channels]:
        raise UserError(
            f"token_shift_mix: previous must be {[batch, channels]}, got {list(previous.shape)}"
        )
    wide = torch.promote_types(z.dtype, torch.float32)
    return tuple(torch.ops.crossover.token_shift_mix(z, previous.to(z.dtype), mu.to(wide)))


def gate(r: Tensor, x: Tensor) -> Tensor:
    """sigmoid(r) * x for two tensors of one shape; in x's dtype."""
    if r.shape != x.shape:
        raise UserError(f"gate: r must be {list(x.shape)} like x, got {list(r.shape)}")
    return torch.ops.crossover.gate(r.to(x.dtype), x)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    return torch.ops.crossover.squared_relu(x)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up for x = (gate, up) `[..., 2 F]`; returns `[..., F]`."""
    if x.shape[-1] % 2:
        raise UserError(f"swiglu: the last dimension must be even, got {list(x.shape)}")
    return torch.ops.crossover.swiglu(x)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; weight `[C]` in fp32."""
    if list(weight.shape) != [x.shape[-1]]:
        raise UserError(f"rms_norm: weight must be [{x.shape[-1]}], got {list(weight.shape)}")
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.ops.crossover.rms_norm(x, weight.to(wide), eps)[0]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i+N/2}) of x `[B, T, H, N]` by angles of cos and sin `[T, N/2]`."""
    if list(cos.shape) != [x.shape[1], x.shape[3] // 2] or x.shape[3] % 2:
        raise UserError(f"rotate: x {list(x.shape)} does not fit angles {list(cos.shape)}")
    return torch.ops.crossover.rotate(x, cos, sin, 1)


def _native(x: Tensor) -> bool:
    """Whether the C++ kernels take `x`."""
    usable = x.device.type == "cpu" and x.dtype in _NATIVE_DTYPES
    return usable and backends.resolve("pointwise", "auto", x.device) == "cpu"


def _define(name: str, schema: str, forward: Any, fake: Any) -> None:
    """Register op `crossover::<name>` for every device."""
    torch.library.define(f"crossover::{name}", schema)
    torch.library.impl(f"crossover::{name}", "CompositeExplicitAutograd", forward)
    torch.library.register_fake(f"crossover::{name}", fake)


# ---------------------------------------------------------------- token shift and mix


def _shifted(z: Tensor, previous: Tensor) -> Tensor:
    """Every token's predecessor, `[B, T, C]`."""
    return torch.cat([previous[:, None], z[:, :-1]], dim=1)


def _mix(z: Tensor, previous: Tensor, mu: Tensor) -> list[Tensor]:
    if _native(z):
        return cpu.token_shift_mix(z, previous, mu)
    wide, past = z.to(mu.dtype), _shifted(z, previous).to(mu.dtype)
    return [(past + (wide - past) * share).to(z.dtype) for share in mu]


def _mix_backward(
    z: Tensor, previous: Tensor, mu: Tensor, grads: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    if _native(z):
        return cpu.token_shift_mix_backward(z, previous, mu, grads)
    step = z.to(mu.dtype) - _shifted(z, previous).to(mu.dtype)
    wide = [grad.to(mu.dtype) for grad in grads]
    own = sum(grad * share for grad, share in zip(wide, mu, strict=True))
    to_past = sum(grad * (1 - share) for grad, share in zip(wide, mu, strict=True))
    assert isinstance(own, Tensor) and isinstance(to_past, Tensor)
    own[:, :-1] += to_past[:, 1:]
    gmu = torch.stack([(grad * step).sum((0, 1)) for grad in wide])
    return own.to(z.dtype), to_past[:, 0].to(z.dtype), gmu


def _mix_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _mix_differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor, ...]:
    z, previous, mu = ctx.saved_tensors
    filled = [torch.zeros_like(z) if grad is None else grad for grad in grads]
    return torch.ops.crossover.token_shift_mix_backward(z, previous, mu, filled)


_define(
    "token_shift_mix",
    "(Tensor z, Tensor previous, Tensor mu) -> Tensor[]",
    _mix,
    lambda z, previous, mu: [z.new_empty(z.shape) for _ in range(mu.shape[0])],
)
_define(
    "token_shift_mix_backward",
    "(Tensor z, Tensor previous, Tensor mu, Tensor[] grads) -> (Tensor, Tensor, Tensor)",
    _mix_backward,
    lambda z, previous, mu, grads: tuple(x.new_empty(x.shape) for x in (z, previous, mu)),
)
torch.library.register_autograd(
    "crossover::token_shift_mix", _mix_differentiate, setup_context=_mix_setup
)


# ---------------------------------------------------------------- sigmoid gate


def _gate(r: Tensor, x: Tensor) -> Tensor:
    return cpu.gate(r, x) if _native(x) else torch.sigmoid(r) * x


def _gate_backward(r: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    if _native(x):
        return cpu.gate_backward(r, x, grad)
    s = torch.sigmoid(r)
    return grad * s * x * torch.sigmoid(-r), grad * s


def _gate_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gate_differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.crossover.gate_backward(*ctx.saved_tensors, grad)


_define("gate", "(Tensor r, Tensor x) -> Tensor", _gate, lambda r, x: x.new_empty(x.shape))
_define(
    "gate_backward",
    "(Tensor r, Tensor x, Tensor grad) -> (Tensor, Tensor)",
    _gate_backward,
    lambda r, x, grad: (r.new_empty(r.shape), x.new_empty(x.shape)),
)
torch.library.register_autograd("crossover::gate", _gate_differentiate, setup_context=_gate_setup)


# ---------------------------------------------------------------- squared ReLU


def _squared_relu(x: Tensor) -> Tensor:
    return cpu.squared_relu(x) if _native(x) else x.relu().square()


def _squared_relu_backward(x: Tensor, grad: Tensor) -> Tensor:
    return cpu.squared_relu_backward(x, grad) if _native(x) else 2 * x.relu() * grad


def _squared_relu_setup(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _squared_relu_differentiate(ctx: Any, grad: Tensor) -> Tensor:
    return torch.ops.crossover.squared_relu_backward(*ctx.saved_tensors, grad)


_define("squared_relu", "(Tensor x) -> Tensor", _squared_relu, lambda x: x.new_empty(x.shape))
_define(
    "squared_relu_backward",
    "(Tensor x, Tensor grad) -> Tensor",
    _squared_relu_backward,
    lambda x, grad: x.new_empty(x.shape),
)
torch.library.register_autograd(
    "crossover::squared_relu", _squared_relu_differentiate, setup_context=_squared_relu_setup
)


# ---------------------------------------------------------------- SwiGLU


def _swiglu(x: Tensor) -> Tensor:
    if _native(x):
        return cpu.swiglu(x)
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _swiglu_backward(x: Tensor, grad: Tensor) -> Tensor:
    if _native(x):
        return cpu.swiglu_backward(x, grad)
    gate, up = x.chunk(2, dim=-1)
    share = torch.sigmoid(gate)
    slope = share * (1 + gate * torch.sigmoid(-gate))
    return torch.cat((grad * up * slope, grad * gate * share), dim=-1)


def _swiglu_setup(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_differentiate(ctx: Any, grad: Tensor) -> Tensor:
    return torch.ops.crossover.swiglu_backward(*ctx.saved_tensors, grad)


_define(
    "swiglu",
    "(Tensor x) -> Tensor",
    _swiglu,
    lambda x: x.new_empty(*x.shape[:-1], x.shape[-1] // 2),
)
_define(
    "swiglu_backward",
    "(Tensor x, Tensor grad) -> Tensor",
    _swiglu_backward,
    lambda x, grad: x.new_empty(x.shape),
)
torch.library.register_autograd(
    "crossover::swiglu", _swiglu_differentiate, setup_context=_swiglu_setup
)


# ---------------------------------------------------------------- RMSNorm


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if _native(x):
        return cpu.rms_norm(x, weight, eps)
    wide = x.to(weight.dtype)
    inverse = torch.rsqrt(wide.square().mean(-1) + eps)
    return (wide * inverse[..., None] * weight).to(x.dtype), inverse


def _rms_norm_backward(
    x: Tensor, weight: Tensor, inverse: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    if _native(x):
        return cpu.rms_norm_backward(x, weight, inverse, grad)
    normed, wide = x.to(weight.dtype) * inverse[..., None], grad.to(weight.dtype)
    through = wide * weight
    gx = (through - normed * (through * normed).mean(-1, keepdim=True)) * inverse[..., None]
    return gx.to(x.dtype), (wide * normed).flatten(0, -2).sum(0)


def _rms_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:2], output[1])


def _rms_norm_differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *torch.ops.crossover.rms_norm_backward(*ctx.saved_tensors, grad), None


_define(
    "rms_norm",
    "(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    _rms_norm,
    lambda x, weight, eps: (x.new_empty(x.shape), weight.new_empty(x.shape[:-1])),
)
_define(
    "rms_norm_backward",
    "(Tensor x, Tensor weight, Tensor inverse, Tensor grad) -> (Tensor, Tensor)",
    _rms_norm_backward,
    lambda x, weight, inverse, grad: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
)
torch.library.register_autograd(
    "crossover::rms_norm", _rms_norm_differentiate, setup_context=_rms_norm_setup
)


# ---------------------------------------------------------------- rotation


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    if _native(x):
        return cpu.rotate(x, cos, sin, direction)
    cos, sin = cos[:, None], direction * sin[:, None]
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def _rotate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.direction = inputs
    ctx.save_for_backward(cos, sin)


def _rotate_differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    turned_back = torch.ops.crossover.rotate(grad, *ctx.saved_tensors, -ctx.direction)
    return turned_back, None, None, None


_define(
    "rotate",
    "(Tensor x, Tensor cos, Tensor sin, int direction) -> Tensor",
    _rotate,
    lambda x, cos, sin, direction: x.new_empty(x.shape),
)
torch.library.register_autograd(
    "crossover::rotate", _rotate_differentiate, setup_context=_rotate_setup
)
