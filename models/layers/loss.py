"""Cross entropy fused with the output projection, so that [B, T, V] logits never exist."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 512
"""Tokens per chunk on a CPU: large enough to keep the matrix product efficient, small enough that a
chunk of logits (512 * V * 4 bytes, 8 MiB at V = 4096) stays near the cache."""
GPU_CHUNK_TOKENS = 2048
"""On a GPU at most: each chunk is a dozen launches, and its gradient of the weights a pass over
fp32 `[V, C]`."""
GPU_LOGITS = GPU_CHUNK_TOKENS * 2**16
"""Logits of a chunk on a GPU, at most: larger vocabularies have fewer tokens in it."""
GPU_SHARE = 128
"""A chunk of fp32 logits, of which there are two at a time, takes a GPU's memory over this."""

_meant: str | None = None


@contextlib.contextmanager
def loss_as_on(device: str) -> Iterator[None]:
    """Compute losses as on this type of device, wherever the tensors are: for traces without a
    device."""
    global _meant
    before, _meant = _meant, device
    try:
        yield
    finally:
        _meant = before


def chunk_tokens(device: str, vocab: int, memory: int | None = None) -> int:
    """How many positions have logits at a time on this type of device, with so many tokens in the
    vocabulary and so many bytes of memory (None: plenty)."""
    if device == "cpu":
        return CHUNK_TOKENS
    logits = GPU_LOGITS if memory is None else min(GPU_LOGITS, memory // GPU_SHARE // 4)
    return min(GPU_CHUNK_TOKENS, max(CHUNK_TOKENS, logits // vocab // 128 * 128))


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    l2wrap: float = 0.0,
    z_loss: float = 0.0,
    total: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean of -log softmax(hidden @ weight^T)[target] over all positions, and what to minimise.

    hidden `[..., C]`, weight `[V, C]`, targets `[...]` int64. Returns two fp32 scalars: the
    objective, and the cross entropy in nats per token, which is for reporting and has no gradient.
    They differ by `l2wrap` / 2 times the mean over positions of (largest logit)^2, the term the
    official RWKV trainers add (with 1e-4) to keep logits from drifting, and by `z_loss` times that
    of (log Z)^2, Z the normaliser of the softmax (Chowdhery et al. 2022, arXiv 2204.02311,
    section 5: 1e-4).

    With `total`, negative targets are not learned: their positions enter neither value
    and get no gradient, and the sums over the others are divided by `total`, which may be their
    number in all parts of a step together. Without it every target is learned.

    Logits are formed for at most `chunk_tokens` positions at a time and reduced in fp32. When a
    gradient is needed it is computed in the same pass (one extra product per chunk, the logits are
    never recomputed); peak extra memory is one chunk of logits (in fp32 on a CPU) or two, plus the
    gradients.

    In fp32 on a CPU the gradient of each logit is divided by the number of positions at once.
    Elsewhere the sums are, in fp32, when the gradient of the objective is there: in fp16 a logit's
    gradient divided by thousands of positions would vanish before the loss scale could save it.
    """
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    targets = targets.reshape(-1)
    if total is None:
        total = len(targets)
    else:
        learned = targets.ge(0).nonzero()[:, 0]
        hidden, targets = hidden[learned], targets[learned]
    return _LinearCrossEntropy.apply(hidden, weight, targets, l2wrap, z_loss, total)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        l2wrap: float,
        z_loss: float,
        count: float,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(hidden.dtype)
        device = _meant or hidden.device.type
        divided = device == "cpu" and hidden.dtype == torch.float32
        ctx.divisor = None if divided else count
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        penalty = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            if needs_weight
            else None
        )
        memory = None
        if hidden.is_cuda:
            memory = torch.cuda.get_device_properties(hidden.device).total_memory
        positions, size = hidden.shape[0], chunk_tokens(device, len(weight), memory)
        for start in range(0, positions, size):
            part = slice(start, min(start + size, positions))
            target = targets[part, None]
            chunk: _Chunk | _DividedChunk
            if divided:
                chunk = _DividedChunk(hidden[part] @ matrix.T, target, l2wrap, z_loss, count)
            else:
                chunk = _Chunk(hidden[part], matrix, target, l2wrap, z_loss, device)
            total += chunk.cross_entropy
            if chunk.penalty is not None:
                penalty += chunk.penalty
            if grad_hidden is None and grad_weight is None:
                continue
            grad_logits = chunk.gradient()
            if grad_hidden is not None:
                torch.mm(grad_logits, matrix, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.T, hidden[part], device)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        cross_entropy = total / count
        ctx.mark_non_differentiable(cross_entropy)
        return (total + penalty) / count, cross_entropy

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        factor = grad if ctx.divisor is None else grad / ctx.divisor
        if grad_hidden is not None:
            # With a dimension the factor stays fp32: a loss scale of 65,536 is no number in fp16.
            out = torch.empty_like(grad_hidden)
            grad_hidden = torch.mul(grad_hidden, factor.view(1, 1), out=out)
        if grad_weight is not None:
            grad_weight = (grad_weight * factor).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None


class _DividedChunk:
    """Some positions in fp32: their summed losses, and the gradients of their logits over `count`.

    logits `[n, V]`, which are overwritten, target `[n, 1]`.
    """

    def __init__(
        self, logits: Tensor, target: Tensor, l2wrap: float, z_loss: float, count: float
    ) -> None:
        self._logits, self._target, self._count = logits, target, count
        self._l2wrap, self._z_loss = l2wrap, z_loss
        self._log_norm = logits.logsumexp(-1, keepdim=True)
        self.cross_entropy = (self._log_norm - logits.gather(-1, target)).sum()
        self.penalty: Tensor | None = None
        if l2wrap:
            self._largest, self._where = logits.max(-1, keepdim=True)
            self.penalty = l2wrap / 2 * self._largest.square().sum()
        if z_loss:
            term = z_loss * self._log_norm.square().sum()
            self.penalty = term if self.penalty is None else self.penalty + term

    def gradient(self) -> Tensor:
        """`[n, V]`: (softmax - one hot) / count, and what the two terms add."""
        count, target = self._count, self._target
        grad = self._logits.sub_(self._log_norm).exp_().div_(count)
        if self._z_loss:  # d (log Z)^2 / d logits = 2 log Z softmax
            grad.mul_(1 + 2 * self._z_loss * self._log_norm)
        grad.scatter_add_(-1, target, grad.new_full(target.shape, -1 / count))
        if self._l2wrap:
            grad.scatter_add_(-1, self._where, self._largest * (self._l2wrap / count))
        return grad


class _Chunk:
    """Some positions in any type: their summed losses and undivided gradients.

    hidden `[n, C]`, matrix `[V, C]`, both and the gradients in one type, target `[n, 1]`.

    Few passes over `[n, V]`: log softmax, and its exponential, which is rounded to the gradients'
    type as it is written. Only the targets' gradients are computed apart, so that softmax - 1 is
    rounded once.
    """

    def __init__(
        self,
        hidden: Tensor,
        matrix: Tensor,
        target: Tensor,
        l2wrap: float,
        z_loss: float,
        device: str,
    ) -> None:
        if _widens(hidden.dtype, device):
            logits = torch.mm(hidden, matrix.T, out_dtype=torch.float32)
        else:
            logits = hidden @ matrix.T
        self._dtype, self._target = hidden.dtype, target
        self._l2wrap, self._z_loss = l2wrap, z_loss
        self.penalty: Tensor | None = None
        if l2wrap:
            largest, self._where = logits.max(-1, keepdim=True)
            self._largest = largest.float()
            self.penalty = l2wrap / 2 * self._largest.square().sum()
        first = logits.gather(-1, target).float() if z_loss else None
        self._log = torch.log_softmax(logits, -1, dtype=torch.float32)
        log_target = self._log.gather(-1, target)
        self.cross_entropy = -log_target.sum()
        if first is not None:
            self._log_norm = first - log_target
            term = z_loss * self._log_norm.square().sum()
            self.penalty = term if self.penalty is None else self.penalty + term
        self._log_target = log_target

    def gradient(self) -> Tensor:
        """`[n, V]`: softmax - one hot, and what the two terms add."""
        target = self._target
        if not (self._l2wrap or self._z_loss):
            if self._dtype == torch.float32:
                grad = self._log.exp_()
            else:
                grad = torch.empty_like(self._log, dtype=self._dtype)
                torch.exp(self._log, out=grad)
            return grad.scatter_(-1, target, self._log_target.expm1().to(grad.dtype))
        softmax = self._log.exp_()
        if self._z_loss:
            softmax.mul_(1 + 2 * self._z_loss * self._log_norm)
        apart = torch.cat([target, self._where], -1) if self._l2wrap else target
        values = softmax.gather(-1, apart) - (apart == target).float()
        if self._l2wrap:
            values += (apart == self._where) * (self._l2wrap * self._largest)
        grad = softmax.to(self._dtype)
        return grad.scatter_(-1, apart, values.to(grad.dtype))  # where both are one, so are values


def _widens(dtype: torch.dtype, device: str) -> bool:
    """Whether products of this type are to be written in fp32, and can be."""
    if dtype == torch.float32 or device != "cuda":
        return False
    return _meant is not None or _writes_fp32(dtype)


def _add_product(sums: Tensor, left: Tensor, right: Tensor, device: str) -> None:
    """sums `[V, C]` in fp32 += left `[V, n]` @ right `[n, C]`, which may be in half precision."""
    if left.dtype == torch.float32:
        sums.addmm_(left, right)
    elif _widens(left.dtype, device):
        torch.addmm(sums, left, right, out_dtype=torch.float32, out=sums)
    elif left.dtype == torch.float16:  # thousands of terms may be too much for its largest number
        sums.add_(left @ (right / 64), alpha=64)
    else:
        sums += left @ right


@functools.cache
def _writes_fp32(dtype: torch.dtype) -> bool:
    """Whether products of a half precision can be written in, and added to, fp32 on this GPU."""
    ones = torch.ones(16, 16, dtype=dtype, device="cuda")
    try:
        sums = torch.mm(ones, ones, out_dtype=torch.float32)
        torch.addmm(sums, ones, ones, out_dtype=torch.float32, out=sums)
    except RuntimeError:
        return False
    return bool((sums == 32).all())
