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


@pytest.mark.parametrize("autocast", [False, True])
def test_targets_that_are_not_learned_enter_nothing(autocast: bool) -> None:
    """The gradient of their positions is 0 to the bit, whatever divides the sums."""
    torch.manual_seed(0)
    count = CHUNK_TOKENS + 90
    hidden, weight = torch.randn(count, 16, requires_grad=True), torch.randn(40, 16)
    targets, learned = torch.randint(0, 40, (count,)), torch.rand(count) < 0.3
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        objective, loss = linear_cross_entropy(
            hidden, weight, targets.where(learned, -100), 0.1, 0.2, total=50
        )
        alone = hidden.detach()[learned].requires_grad_()
        wanted = linear_cross_entropy(alone, weight, targets[learned], 0.1, 0.2)
    scale = int(learned.sum()) / 50
    torch.testing.assert_close(objective, scale * wanted[0])
    torch.testing.assert_close(loss, scale * wanted[1])
    objective.backward()
    (scale * wanted[0]).backward()
    assert hidden.grad is not None and not hidden.grad[~learned].any()
    torch.testing.assert_close(hidden.grad[learned], alone.grad, rtol=2e-2, atol=1e-3 * autocast)


def test_nothing_to_learn_is_zero_and_no_nan() -> None:
    hidden, weight = torch.randn(7, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    objective, loss = linear_cross_entropy(hidden, weight, torch.full((7,), -100), 0.1, 0.1, 1.0)
    objective.backward()
    assert objective == loss == 0
    assert hidden.grad is not None and not hidden.grad.any()
    assert weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_loss_of_an_answer_is_its_own_teacher_forced(name: str) -> None:
    """As plain cross entropy of the logits of its tokens, and as the loss after the prompt."""
    model = shaken(name)
    tokens, prompt = some_tokens(2, 31), 19
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[:, : prompt - 1] = -100
    with torch.no_grad():
        loss = model.objective(inputs, targets, total=float((targets >= 0).sum()))[1]
        logits, _ = model(inputs)
        plain = F.cross_entropy(logits[:, prompt - 1 :].flatten(0, 1), tokens[:, prompt:].flatten())
        _, state = model(tokens[:, : prompt - 1], model.init_state(2))
        after, _ = model.loss(tokens[:, prompt - 1 : -1], tokens[:, prompt:], state)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, after, rtol=1e-5, atol=1e-6)


def test_masked_targets_decide_nothing() -> None:
    """To the bit: neither the loss nor any gradient depends on what they would have been."""
    model = shaken("rwkv7")
    tokens, targets = some_tokens(2, 30), some_tokens(2, 30, seed=2)
    learned = torch.rand(2, 30) < 0.5
    found = []
    for hidden_value in (-100, -7):
        masked = targets.where(learned, hidden_value)
        objective, loss, _ = model.objective(tokens, masked, l2wrap=0.1, total=9.0)
        found.append([loss, *torch.autograd.grad(objective, list(model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
