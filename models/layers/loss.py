"""Cross entropy fused with the output projection, so that [B, T, V] logits never exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Tokens per chunk: large enough to keep the matrix product efficient, small enough that a chunk
# of logits (512 * V * 4 bytes, 8 MiB at V = 4096) stays near the cache.
CHUNK_TOKENS = 512


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

    Logits are formed for at most `CHUNK_TOKENS` positions at a time and reduced in fp32. When a
    gradient is needed it is computed in the same pass (one extra product per chunk, the logits are
    never recomputed); peak extra memory is one chunk of logits plus the gradients.
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
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        penalty = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            if needs_weight
            else None
        )
        positions = hidden.shape[0]
        for start in range(0, positions, CHUNK_TOKENS):
            part = slice(start, min(start + CHUNK_TOKENS, positions))
            logits = (hidden[part] @ matrix.T).float()
            target = targets[part, None]
            log_norm = logits.logsumexp(-1, keepdim=True)
            total += (log_norm - logits.gather(-1, target)).sum()
            if l2wrap:
                largest, where = logits.max(-1, keepdim=True)
                penalty += l2wrap / 2 * largest.square().sum()
            if z_loss:
                penalty += z_loss * log_norm.square().sum()
            if grad_hidden is None and grad_weight is None:
                continue
            # d loss / d logits = (softmax - one hot) / count
            grad_logits = logits.sub_(log_norm).exp_().div_(count)
            if z_loss:  # d (log Z)^2 / d logits = 2 log Z softmax
                grad_logits.mul_(1 + 2 * z_loss * log_norm)
            grad_logits.scatter_add_(-1, target, grad_logits.new_full(target.shape, -1 / count))
            if l2wrap:
                grad_logits.scatter_add_(-1, where, largest * (l2wrap / count))
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad_logits, matrix, out=grad_hidden[part])
            if grad_weight is not None:
                if grad_logits.dtype == torch.float32:
                    grad_weight.addmm_(grad_logits.T, hidden[part])
                else:
                    grad_weight += grad_logits.T @ hidden[part]
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
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None
