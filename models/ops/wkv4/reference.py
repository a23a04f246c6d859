"""WKV-4 in plain PyTorch: the sequential loop that defines the truth, and a chunked-parallel form.

Symbols (per channel; w < 0 is the log-decay, u the bonus of the current token):

    y_t = (a_{t-1} + e^{u+k_t} v_t) / (b_{t-1} + e^{u+k_t})
    a_t = e^w a_{t-1} + e^{k_t} v_t            b_t = e^w b_{t-1} + e^{k_t}

Both sums overflow unless they carry an exponent, so the state is the triple (aa, bb, pp) with
a = aa e^pp and b = bb e^pp, and pp a running maximum. See docs/kernels.md for the derivations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 32
"""Tokens K between the checkpoints of a forward pass; every back end uses the same grid."""

EMPTY_EXPONENT = -1e38
"""Exponent pp of an empty sum: finite, so that differences of two of them stay finite."""


class Scaled(NamedTuple):
    """Two sums with a common exponent: true values `a * e^p` and `b * e^p`.

    Holds the forward state (aa, bb, pp), and in the backward pass the adjoints of a and b.
    """

    a: Tensor
    b: Tensor
    p: Tensor


def unpack(state: Tensor) -> Scaled:
    """`[..., 3, C]` to its three rows `[..., C]`."""
    return Scaled(*state.unbind(-2))


def pack(state: Scaled) -> Tensor:
    """Three rows `[..., C]` to `[..., 3, C]`."""
    return torch.stack(state, dim=-2)


def empty(like: Tensor) -> Scaled:
    """The sums over no tokens, shaped like `like`."""
    zero = torch.zeros_like(like)
    return Scaled(zero, zero, torch.full_like(like, EMPTY_EXPONENT))


def combine(left: Scaled, right: Scaled, decay: Tensor) -> Scaled:
    """Sums over two neighbouring segments; `decay` is the log-decay `left` suffers (tokens * w).

    The exponent is `(p - q) + decay`, not `(p + decay) - q`: p - q is exact where it matters, so
    the rounding of q = p + decay is not lost, which would change the decay itself over long T.
    """
    q = torch.maximum(left.p + decay, right.p).detach()
    from_left, from_right = torch.exp((left.p - q) + decay), torch.exp(right.p - q)
    return Scaled(
        from_left * left.a + from_right * right.a, from_left * left.b + from_right * right.b, q
    )


def output(state: Scaled, u: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y_t from the state before token t; also its denominator and that one's exponent."""
    p = torch.maximum(state.p, u + k).detach()
    past, now = torch.exp(state.p - p), torch.exp((k - p) + u)
    denominator = past * state.b + now
    return (past * state.a + now * v) / denominator, denominator, p


def advance(state: Scaled, w: Tensor, k: Tensor, v: Tensor) -> Scaled:
    """The state after a token: one token is the segment (v, 1) with exponent k."""
    return combine(state, Scaled(v, torch.ones_like(v), k), w)


def wkv4_sequential(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token, differentiated by autograd, in whatever dtype the inputs promote to.

    Shapes: w, u `[C]`; k, v `[B, T, C]`; state `[B, 3, C]`. Returns y `[B, T, C]` and the state.
    """
    sums, ys = unpack(state), []
    sums = sums._replace(p=sums.p.detach())
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        ys.append(output(sums, u, k_t, v_t)[0])
        sums = advance(sums, w, k_t, v_t)
    return torch.stack(ys, dim=1), pack(sums)


def wkv4_forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Chunked-parallel forward: K sequential steps, each over all chunks at once.

    Summaries of all chunks, a carry over them, then every chunk from its own start; the tail of
    T mod K tokens comes last. Returns y, the state after the last token and the checkpoints
    `[B, ceil(T / K), 3, C]`: the state before each chunk.
    """
    k, v = k.to(state.dtype), v.to(state.dtype)
    whole = k.shape[1] // CHUNK * CHUNK
    carry, starts, ys = unpack(state), [], []
    if whole:
        k_c, v_c = _chunks(k[:, :whole]), _chunks(v[:, :whole])
        summary = empty(k_c[..., 0, :])
        for k_t, v_t in _steps(k_c, v_c):
            summary = advance(summary, w, k_t, v_t)
        begin, carry = _carry(carry, summary, CHUNK * w)
        starts.append(begin)
        ys.append(_apply(w, u, k_c, v_c, unpack(begin))[0].flatten(1, 2))
    if whole < k.shape[1]:
        starts.append(pack(carry)[:, None])
        y, carry = _apply(w, u, k[:, whole:], v[:, whole:], carry)
        ys.append(y)
    return torch.cat(ys, dim=1), pack(carry), torch.cat(starts, dim=1)


def wkv4_backward(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    adjoint: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Chunked-parallel backward: the same scan, run from right to left.

    `adjoint[B, 3, C]` are the gradients of the true sums a, b after the last token, scaled.
    Returns the gradients of w, u `[C]`, k, v `[B, T, C]` and the adjoint before the first token.
    """
    dtype = checkpoints.dtype
    k, v, grad_y = k.to(dtype), v.to(dtype), grad_y.to(dtype)
    whole = k.shape[1] // CHUNK * CHUNK
    right, parts = unpack(adjoint), []
    if whole < k.shape[1]:
        tail = _Tape.record(
            w, u, k[:, whole:], v[:, whole:], grad_y[:, whole:], unpack(checkpoints[:, -1])
        )
        *grads, right = tail.gradients(w, right)
        parts.append(grads)
    if whole:
        k_c, v_c, grad_c = (_chunks(x[:, :whole]) for x in (k, v, grad_y))
        starts = unpack(checkpoints[:, : whole // CHUNK])
        tape = _Tape.record(w, u, k_c, v_c, grad_c, starts)
        local = tape.pull(w, empty(tape.k[..., 0, :]))
        ends, right = _carry(right, Scaled(*(x.flip(1) for x in local)), CHUNK * w)
        gw, gu, gk, gv, _ = tape.gradients(w, unpack(ends.flip(1)))
        parts.append([gw.sum(1), gu.sum(1), gk.flatten(1, 2), gv.flatten(1, 2)])
    ws, us, ks, vs = zip(*reversed(parts), strict=True)
    grad_w, grad_u = (torch.stack(x).sum((0, 1)) for x in (ws, us))
    return grad_w, grad_u, torch.cat(ks, dim=1), torch.cat(vs, dim=1), pack(right)


class _Tape(NamedTuple):
    """What one chunk's backward needs, each `[..., K, C]`; lists are indexed by token.

    `y` outputs; `q` output gradients over the scaled denominators; `p` the denominators' exponents;
    `before` the states before each token.
    """

    k: Tensor
    v: Tensor
    u: Tensor
    y: list[Tensor]
    q: list[Tensor]
    p: list[Tensor]
    before: list[Scaled]

    @classmethod
    def record(
        cls, w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad_y: Tensor, start: Scaled
    ) -> _Tape:
        """Recompute the forward pass of a chunk from its checkpoint."""
        tape, state = cls(k, v, u, [], [], [], []), start
        for (k_t, v_t), grad in zip(_steps(k, v), grad_y.unbind(-2), strict=True):
            y, denominator, p = output(state, u, k_t, v_t)
            tape.y.append(y)
            tape.q.append(grad / denominator)
            tape.p.append(p)
            tape.before.append(state)
            state = advance(state, w, k_t, v_t)
        return tape

    def step(self, t: int, w: Tensor, right: Scaled) -> Scaled:
        """Adjoint of the state before token t from the one after it."""
        return combine(right, Scaled(self.q[t], -self.y[t] * self.q[t], -self.p[t]), w)

    def pull(self, w: Tensor, right: Scaled) -> Scaled:
        """Adjoint of the state before the chunk from the one after it."""
        for t in reversed(range(len(self.y))):
            right = self.step(t, w, right)
        return right

    def gradients(self, w: Tensor, right: Scaled) -> tuple[Tensor, Tensor, Tensor, Tensor, Scaled]:
        """Gradients of w, u `[..., C]` and k, v `[..., K, C]`, and the adjoint before the chunk."""
        gw, gu = torch.zeros_like(right.a), torch.zeros_like(right.a)
        gk, gv = torch.empty_like(self.k), torch.empty_like(self.v)
        for t in reversed(range(len(self.y))):
            k_t, v_t, before = self.k[..., t, :], self.v[..., t, :], self.before[t]
            current = self.q[t] * torch.exp((k_t - self.p[t]) + self.u)  # dL/d(numerator) e^{u+k}
            bonus = current * (v_t - self.y[t])
            later = torch.exp(k_t + right.p)
            gv[..., t, :] = current + later * right.a
            gk[..., t, :] = bonus + later * (right.a * v_t + right.b)
            gu += bonus
            gw += torch.exp(before.p + right.p + w) * (before.a * right.a + before.b * right.b)
            right = self.step(t, w, right)
        return gw, gu, gk, gv, right


def _chunks(x: Tensor) -> Tensor:
    """`[B, n*K, C]` to `[B, n, K, C]`."""
    return x.unflatten(1, (-1, CHUNK))


def _steps(k: Tensor, v: Tensor) -> zip[tuple[Tensor, Tensor]]:
    """Pairs of `[..., C]` slices, token by token."""
    return zip(k.unbind(-2), v.unbind(-2), strict=True)


def _carry(first: Scaled, summaries: Scaled, decay: Tensor) -> tuple[Tensor, Scaled]:
    """Exclusive scan over chunks: what comes before each `[B, n, 3, C]`, and after the last.

    In fp64, which costs nothing here: these are the sums that live long enough to gather rounding.
    """
    dtype, before = first.a.dtype, []
    carry, decay = Scaled(*(x.double() for x in first)), decay.double()
    for chunk in zip(*(x.double().unbind(1) for x in summaries), strict=True):
        before.append(pack(carry))
        carry = combine(carry, Scaled(*chunk), decay)
    return torch.stack(before, dim=1).to(dtype), Scaled(*(x.to(dtype) for x in carry))


def _apply(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Scaled) -> tuple[Tensor, Scaled]:
    """Outputs `[..., K, C]` and the end state of chunks `[..., K, C]` from their start states."""
    ys = []
    for k_t, v_t in _steps(k, v):
        ys.append(output(state, u, k_t, v_t)[0])
        state = advance(state, w, k_t, v_t)
    return torch.stack(ys, dim=-2), state
