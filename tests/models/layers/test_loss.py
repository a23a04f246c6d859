"""The fused loss against plain PyTorch in fp64, and the terms that keep logits small."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.layers.loss import CHUNK_TOKENS, linear_cross_entropy
from tests.registered_models import shaken, some_tokens


@pytest.mark.parametrize("count", [1, 7, CHUNK_TOKENS + 3])
@pytest.mark.parametrize(("l2wrap", "z_loss"), [(0.0, 0.0), (1e-4, 0.0), (0.5, 0.1), (0.0, 0.3)])
def test_objective_and_loss(count: int, l2wrap: float, z_loss: float) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(count, 16), torch.randn(40, 16)
    targets = torch.randint(0, 40, (count,))
    given = [x.clone().requires_grad_() for x in (hidden, weight)]
    objective, loss = linear_cross_entropy(*given, targets, l2wrap, z_loss)
    ours = torch.autograd.grad(3 * objective, given)

    true = [x.double().requires_grad_() for x in (hidden, weight)]
    logits = true[0] @ true[1].T
    plain = F.cross_entropy(logits, targets)
    term = l2wrap / 2 * logits.amax(-1).square().mean()
    term = term + z_loss * logits.logsumexp(-1).square().mean()
    want = torch.autograd.grad(3 * (plain + term), true)
    torch.testing.assert_close(loss.double(), plain.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(objective.double(), plain + term, rtol=1e-6, atol=1e-6)
    for got, expected in zip(ours, want, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    assert not loss.requires_grad


def test_the_term_is_never_part_of_the_reported_loss() -> None:
    model = shaken("rwkv7")
    tokens, targets = some_tokens(2, 30), some_tokens(2, 30, seed=2)
    plain, _ = model.loss(tokens, targets)
    objective, loss, _ = model.objective(tokens, targets, l2wrap=0.1, z_loss=0.01)
    assert torch.equal(loss, plain) and objective > loss
