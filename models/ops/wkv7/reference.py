"""WKV-7 in plain PyTorch: the sequential loop that defines the truth, and a chunked-parallel form.

Per head, with the state S `[value, key]` and w <= 0 the log-decay of each key channel:

    S_t = S_{t-1} diag(e^{w_t}) + (S_{t-1} a_t) b_t^T + v_t k_t^T          y_t = S_t r_t

A chunk reads its start state through a and r ("reads"), and writes sa_t = S_{t-1} a_t through b and
v_t through k ("writes"). See docs/kernels.md for the derivation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
"""Tokens K between the checkpoints of a forward pass; every back end uses the same grid."""

RANGE = 60.0
"""Largest sum of -w between two tokens of a chunk: e^60 and its products stay inside fp32."""

SLOWEST = -1e4
"""Log-decays below this one are taken for it: both are zero as factors."""


def wkv7_sequential(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token, differentiated by autograd, in whatever dtype the inputs promote to.

    Shapes: r, w, k, v, a, b `[B, T, H, N]`; state `[B, H, N, N]`, rows are values, columns keys.
    Returns y `[B, T, H, N]` and the state after the last token.
    """
    ys = []
    for r_t, w_t, k_t, v_t, a_t, b_t in zip(
        *(x.unbind(1) for x in (r, w, k, v, a, b)), strict=True
    ):
        sa = state @ a_t[..., None]
        decayed = state * torch.exp(w_t)[..., None, :]
        state = decayed + sa * b_t[..., None, :] + v_t[..., None] * k_t[..., None, :]
        ys.append((state @ r_t[..., None])[..., 0])
    return torch.stack(ys, dim=1), state


def wkv7_forward(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Chunked-parallel forward: all chunks at once but for one matrix product each, in sequence.

    Returns y, the state after the last token and the checkpoints `[B, ceil(T / K), H, N, N]`: the
    state before each chunk of K tokens.
    """
    length = r.shape[1]
    r, w, k, v, a, b = (x.to(state.dtype) for x in (r, w, k, v, a, b))
    if length == 1:
        return *wkv7_sequential(r, w, k, v, a, b, state), state[:, None].clone()
    size = _size(w)
    chunk = _Chunks.cut(size, r, w, k, v, a, b)
    starts, last = _scan(state, *chunk.summary())
    y = chunk.outputs(starts)
    y = y.transpose(2, 3).flatten(1, 2)[:, :length]
    return y, last, starts[:, :: CHUNK // size].contiguous()


def wkv7_backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    checkpoints: Tensor,
    grad_state: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Chunked-parallel backward: the scan over chunks runs from right to left.

    `grad_state[B, H, N, N]` is the gradient of the state after the last token. Returns the
    gradients of r, w (the log-decay), k, v, a, b and of the state before the first token.
    """
    length, dtype, size = r.shape[1], checkpoints.dtype, _size(w)
    chunk = _Chunks.cut(size, *(x.to(dtype) for x in (r, w, k, v, a, b)))
    grad_y = _split(grad_y.to(dtype), size)
    transitions, updates = chunk.summary()
    starts = checkpoints
    if size < CHUNK:
        starts, _ = _scan(checkpoints[:, 0], transitions, updates)
    within = chunk.pull(grad_y)
    ends, first = _scan(grad_state, transitions.mT.flip(1), within.flip(1))
    grads = chunk.gradients(starts, ends.flip(1), grad_y)
    gr, gw, gk, gv, ga, gb = (x.transpose(2, 3).flatten(1, 2)[:, :length] for x in grads)
    return gr, gw, gk, gv, ga, gb, first


class _Chunks(NamedTuple):
    """All chunks of a sequence. Leading dimensions are [B, n, H]; K tokens a chunk.

    `reads [2K, N]` are the rows a, then r; `writes [2K, N]` the rows b, then k. `since [2K, N]` is
    the decay from the start of the chunk to each read, `until` from each write to the end, and
    `back` one over the decay from each read to the end, so that back * until is the decay between
    a write and a later read. `whole [1, N]` is the decay of the chunk.
    """

    reads: Tensor
    writes: Tensor
    v: Tensor
    since: Tensor
    until: Tensor
    back: Tensor
    whole: Tensor
    scores: Tensor
    """`[2K, 2K]`: what each read sees of a unit of each earlier write."""

    @classmethod
    def cut(
        cls, size: int, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor
    ) -> _Chunks:
        """Chunks of `size` tokens; a last one that is not full is filled with empty tokens."""
        r, w, k, v, a, b = (_split(x, size) for x in (r, w, k, v, a, b))
        reads, writes = torch.cat([a, r], -2), torch.cat([b, k], -2)
        # Sums and exponentials in fp64: rounded exponents would cost digits of every product.
        w64 = w.double().clamp(min=SLOWEST)
        through = w64.cumsum(-2)
        before = F.pad(through[..., :-1, :], (0, 0, 1, 0))
        from_here = w64.flip(-2).cumsum(-2).flip(-2)
        after = F.pad(from_here[..., 1:, :], (0, 0, 0, 1))
        since = torch.cat([before, through], -2).exp().to(w.dtype)
        until = torch.cat([after, after], -2).exp().to(w.dtype)
        # Only the first a can be further away than RANGE, and it reads no write of the chunk.
        back = (-torch.cat([from_here, after], -2)).clamp(max=RANGE).exp().to(w.dtype)
        scores = _causal((reads * back) @ (writes * until).mT)
        return cls(
            reads, writes, v, since, until, back, through[..., -1:, :].exp().to(w.dtype), scores
        )

    @property
    def size(self) -> int:
        return self.v.shape[-2]

    def solve(self, right: Tensor, transposed: bool = False) -> Tensor:
        """(I - X)^-1 `right`, or its transpose's, where X is what an a sees of the b before it.

        The diagonal of the matrix passed is taken for 1.
        """
        matrix = -self.scores[..., : self.size, : self.size]
        return torch.linalg.solve_triangular(
            matrix.mT if transposed else matrix, right, upper=transposed, unitriangular=True
        )

    def summary(self) -> tuple[Tensor, Tensor]:
        """P and Z `[N, N]` with (state after) = (state before) P + Z."""
        size, width = self.size, self.v.shape[-1]
        within = self.scores[..., :size, size:] @ self.v
        seen = self.solve(torch.cat([(self.reads * self.since)[..., :size, :], within], -1))
        b, k = (self.writes * self.until).split(size, -2)
        transition = seen[..., :width].mT @ b + torch.diag_embed(self.whole.squeeze(-2))
        return transition, seen[..., width:].mT @ b + self.v.mT @ k

    def written(self, starts: Tensor) -> Tensor:
        """`[2K, N]`: sa of every token, then v, given the states before the chunks."""
        size = self.size
        seen = (self.reads * self.since)[..., :size, :] @ starts.mT
        sa = self.solve(seen + self.scores[..., :size, size:] @ self.v)
        return torch.cat([sa, self.v], -2)

    def outputs(self, starts: Tensor) -> Tensor:
        """y `[K, N]`."""
        seen = (self.reads * self.since)[..., self.size :, :] @ starts.mT
        return seen + self.scores[..., self.size :, :] @ self.written(starts)

    def adjoints(self, grad_y: Tensor, ends: Tensor | None) -> Tensor:
        """`[2K, N]`: gradients of sa, then of y, given those of the states after the chunks."""
        grad_sa = self.scores[..., self.size :, : self.size].mT @ grad_y
        if ends is not None:
            grad_sa = grad_sa + (self.writes * self.until)[..., : self.size, :] @ ends.mT
        return torch.cat([self.solve(grad_sa, transposed=True), grad_y], -2)

    def pull(self, grad_y: Tensor) -> Tensor:
        """What the outputs of a chunk give to the gradient of its start state `[N, N]`."""
        return self.adjoints(grad_y, None).mT @ (self.reads * self.since)

    def gradients(self, starts: Tensor, ends: Tensor, grad_y: Tensor) -> tuple[Tensor, ...]:
        """Gradients of r, w, k, v, a, b `[K, N]` from states before and their gradients after."""
        size, out, written = self.size, self.adjoints(grad_y, ends), self.written(starts)
        reads, writes = self.reads * self.back, self.writes * self.until
        grad_scores = _causal(out @ written.mT)
        grad_reads = (grad_scores @ writes) * self.back + (out @ starts) * self.since
        grad_writes = (grad_scores.mT @ reads + written @ ends) * self.until
        grad_v = self.scores[..., size:].mT @ out + writes[..., size:, :] @ ends.mT
        # A read gains what decay it is spared, a write loses it, and the state after gains it all.
        after = starts * self.whole + written.mT @ writes
        a, r = (self.reads * grad_reads).split(size, -2)
        b, k = (self.writes * grad_writes).split(size, -2)
        per_token = r + a - b - k
        later = per_token.flip(-2).cumsum(-2).flip(-2) - a
        grad_w = later + (ends * after).sum(-2, keepdim=True)
        grad_a, grad_r = grad_reads.split(size, -2)
        grad_b, grad_k = grad_writes.split(size, -2)
        return grad_r, grad_w, grad_k, grad_v, grad_a, grad_b


def _size(w: Tensor) -> int:
    """The largest chunk, up to K, in which no decay between two tokens exceeds RANGE.

    A chunk of one token has no such pair, so there is always one.
    """
    size = CHUNK
    while size > 1:
        steps = _split(w.clamp(min=SLOWEST), size)[..., 1:, :]
        if not bool(steps.sum(-2).min() < -RANGE):
            break
        size //= 2
    return size


def _split(x: Tensor, size: int) -> Tensor:
    """`[B, T, H, N]` to `[B, n, H, size, N]`, zeros after the last token."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size)).transpose(2, 3).contiguous()


def _causal(scores: Tensor) -> Tensor:
    """Keep what happens in order: a reads the writes before its token, r those of its own too."""
    a, r = scores.split(scores.shape[-2] // 2, -2)
    quarters = [
        [x.tril(diagonal) for x in rows.split(scores.shape[-1] // 2, -1)]
        for rows, diagonal in ((a, -1), (r, 0))
    ]
    return torch.cat([torch.cat(row, -1) for row in quarters], -2)


def _scan(first: Tensor, transitions: Tensor, updates: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk `[B, n, H, N, N]`, and after the last."""
    before = []
    for transition, update in zip(transitions.unbind(1), updates.unbind(1), strict=True):
        before.append(first)
        first = first @ transition + update
    return torch.stack(before, dim=1), first
