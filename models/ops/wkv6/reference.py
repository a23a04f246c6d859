"""WKV-5 and WKV-6 in plain PyTorch: the loop that defines the truth, and a parallel form.

Per head, with S a matrix [key, value], w <= 0 the log-decay of each key and u the bonus:

    y_t = (S_{t-1} + (u * k_t) v_t^T)^T r_t            S_t = diag(e^{w_t}) S_{t-1} + k_t v_t^T

In WKV-6 w is `[B, T, H, N]`; in WKV-5 it is constant in time, `[H, N]`. The parallel form never
divides by a decay: every exponential it takes is of a sum of log-decays. See docs/kernels.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 32
"""Tokens between the checkpoints of a forward pass; every back end uses the same grid."""


def wkv6_sequential(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token, differentiated by autograd, in the dtype of the state.

    Shapes: r, k, v `[B, T, H, N]`; w the same or `[H, N]`; u `[H, N]`; state `[B, H, N, N]`, key
    before value. Returns y `[B, T, H, N]` and the state after the last token.
    """
    r, w, k, v, u = (x.to(state.dtype) for x in (r, w, k, v, u))
    decay, ys = w.exp().expand_as(r), []
    for t in range(r.shape[1]):
        now = k[:, t, :, :, None] * v[:, t, :, None, :]
        ys.append(torch.einsum("bhk,bhkv->bhv", r[:, t], state + u[..., None] * now))
        state = decay[:, t, :, :, None] * state + now
    return torch.stack(ys, dim=1), state


def wkv6_forward(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Chunked-parallel forward: all chunks at once but for the carry from one to the next.

    Returns y, the state after the last token and the checkpoints `[B, H, ceil(T / CHUNK), N, N]`:
    the state before each chunk. A positive w gives NaN.
    """
    length = r.shape[1]
    r, w, k, v = _chunks(state.dtype, r, w.masked_fill(w > 0, torch.nan), k, v)
    y = (r * k * u[:, None, None]).sum(-1, keepdim=True) * v
    for half in _levels(r.shape[-2]):
        (_, r_right), (w_left, w_right), (k_left, _), (v_left, _), (_, y_right) = (
            _halves(x, half) for x in (r, w, k, v, y)
        )
        y_right += (r_right * _since(w_right)) @ (k_left * _until(w_left)).mT @ v_left
    starts, state = _carry(state, (k * _until(w)).mT @ v, w)
    y += (r * _since(w)) @ starts
    return _tokens(y, length), state, starts


def wkv6_backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    grad_state: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Chunked-parallel backward. Returns the gradients of r, w, k, v, u and of the state given.

    A pair of tokens s < t adds the same amount to the gradient of every log-decay between them:
    hence the running sums of r * gr and k * gk, always over the side of the pair that is near.
    """
    length, decay_shape = r.shape[1], w.shape
    r, w, k, v, grad_y = _chunks(checkpoints.dtype, r, w, k, v, grad_y)
    bonus = u[:, None, None]
    value_grads = (v * grad_y).sum(-1, keepdim=True)
    gr, gk, gu = (
        value_grads * bonus * k,
        value_grads * bonus * r,
        (value_grads * r * k).sum((0, 2, 3)),
    )
    gv = (r * k * bonus).sum(-1, keepdim=True) * grad_y
    gw = torch.zeros_like(w)
    for half in _levels(r.shape[-2]):
        (_, r_right), (w_left, w_right), (k_left, _), (v_left, _), (_, grad_right) = (
            _halves(x, half) for x in (r, w, k, v, grad_y)
        )
        (_, gr_right), (gw_left, gw_right), (gk_left, _), (gv_left, _) = (
            _halves(x, half) for x in (gr, gw, gk, gv)
        )
        since, until = _since(w_right), _until(w_left)
        r_right, k_left = r_right * since, k_left * until
        scores, grad_scores = r_right @ k_left.mT, grad_right @ v_left.mT
        gv_left += scores.mT @ grad_right
        grad_r, grad_k = grad_scores @ k_left, grad_scores.mT @ r_right
        gr_right += grad_r * since
        gk_left += grad_k * until
        gw_right += _after(r_right * grad_r)
        gw_left += _before(k_left * grad_k)
    since, until = _since(w), _until(w)
    r, k = r * since, k * until
    ends, grad_state = _carry(grad_state, (r.mT @ grad_y).flip(2), w.flip(2))
    ends = ends.flip(2)
    gv += k @ ends
    grad_r, grad_k = grad_y @ checkpoints.mT, v @ ends.mT
    gr += grad_r * since
    gk += grad_k * until
    through = w.sum(-2).exp() * (ends * checkpoints).sum(-1)
    gw += _after(r * grad_r) + _before(k * grad_k) + through[..., None, :]
    gr, gw, gk, gv = (_tokens(x, length) for x in (gr, gw, gk, gv))
    return gr, gw.sum_to_size(decay_shape), gk, gv, gu, grad_state


def _chunks(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    """`[B, T, H, N]` (or `[H, N]`) to `[B, H, n, K, N]`, the end padded with zeros.

    K is CHUNK, or the next power of two where T is below. Padding changes no state: it adds
    k v^T = 0 and its log-decay is 0.
    """
    batch, length, heads, size = tensors[0].shape
    chunk = min(CHUNK, 1 << (length - 1).bit_length())
    return [
        pad(x.to(dtype).expand(batch, length, heads, size), (0, 0, 0, 0, 0, -length % chunk))
        .unflatten(1, (-1, chunk))
        .permute(0, 3, 1, 2, 4)
        .contiguous()
        for x in tensors
    ]


def _tokens(x: Tensor, length: int) -> Tensor:
    """`[B, H, n, K, N]` back to `[B, T, H, N]`."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length].contiguous()


def _levels(chunk: int) -> Iterator[int]:
    """Half lengths K/2, ..., 2, 1: each pair of tokens of a chunk is divided at just one level."""
    while chunk > 1:
        chunk //= 2
        yield chunk


def _halves(x: Tensor, half: int) -> tuple[Tensor, ...]:
    """Views of the left and right halves of all runs of `2 * half` tokens: `[..., half, N]`."""
    return x.unflatten(-2, (-1, 2, half)).unbind(-3)


def _before(x: Tensor) -> Tensor:
    """For each token of a run, the sum over the tokens before it."""
    return pad(x[..., :-1, :], (0, 0, 1, 0)).cumsum(-2)


def _after(x: Tensor) -> Tensor:
    """For each token of a run, the sum over the tokens after it."""
    return _before(x.flip(-2)).flip(-2)


def _since(w: Tensor) -> Tensor:
    """Decays from the start of a run up to the state each token reads."""
    return _before(w).exp()


def _until(w: Tensor) -> Tensor:
    """Decays from the state each token leaves to the end of its run."""
    return _after(w).exp()


def _carry(state: Tensor, added: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The states before each chunk, `[B, H, n, N, N]`, and after the last one."""
    decay, before = w.sum(-2).exp()[..., None], []
    for chunk in range(added.shape[2]):
        before.append(state)
        state = decay[:, :, chunk] * state + added[:, :, chunk]
    return torch.stack(before, dim=2), state
