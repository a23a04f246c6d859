"""The fused loss against plain PyTorch in fp64, and the terms that keep logits small."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.layers import loss as fused
from models.layers.loss import (
    CHUNK_TOKENS,
    GPU_CHUNK_TOKENS,
    chunk_tokens,
    linear_cross_entropy,
    loss_as_on,
)
from tests.registered_models import shaken, some_tokens


def loss_and_term(
    logits: torch.Tensor, targets: torch.Tensor, l2wrap: float, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of logits `[N, V]`, and what the objective adds to it, as their formulas say."""
    term = l2wrap / 2 * logits.amax(-1).square().mean()
    return F.cross_entropy(logits, targets), term + z_loss * logits.logsumexp(-1).square().mean()


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
    plain, term = loss_and_term(true[0] @ true[1].T, targets, l2wrap, z_loss)
    want = torch.autograd.grad(3 * (plain + term), true)
    torch.testing.assert_close(loss.double(), plain.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(objective.double(), plain + term, rtol=1e-6, atol=1e-6)
    for got, expected in zip(ours, want, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    assert not loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("l2wrap", "z_loss"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.1), (0.0, 0.3)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_divided_late(
    dtype: torch.dtype, l2wrap: float, z_loss: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision, and every type on a GPU, whose steps a CPU takes here with its own products.

    Against the same weights in fp64: what is left is the rounding of logits and gradients."""
    monkeypatch.setattr(fused, "_widens", lambda dtype, device: False)
    torch.manual_seed(0)
    count, small = GPU_CHUNK_TOKENS + 5, torch.finfo(dtype).eps
    hidden, weight = torch.randn(count, 16).to(dtype), torch.randn(40, 16).to(dtype)
    targets = torch.randint(0, 40, (count,))
    targets[:9] = (hidden[:9].double() @ weight.double().T).argmax(-1)  # the largest logits too
    given = [x.clone().requires_grad_() for x in (hidden, weight)]
    with loss_as_on(device):
        objective, loss = linear_cross_entropy(*given, targets, l2wrap, z_loss)
    ours = torch.autograd.grad(300 * objective, given)

    true = [x.double().requires_grad_() for x in (hidden, weight)]
    plain, term = loss_and_term(true[0] @ true[1].T, targets, l2wrap, z_loss)
    want = torch.autograd.grad(300 * (plain + term), true)
    torch.testing.assert_close(loss.double(), plain.detach(), rtol=small, atol=1e-6)
    torch.testing.assert_close(objective.double(), plain + term, rtol=small, atol=1e-6)
    # Two logits that are one in half precision: the term may go to either.
    close = 0.08 if l2wrap and dtype != torch.float32 else 2 * small + 1e-6
    for got, expected in zip(ours, want, strict=True):
        assert got.dtype == dtype
        assert (got.double() - expected).norm() < close * expected.norm()


def test_small_gradients_survive_fp16() -> None:
    """5 and 14 % of them were lost at 32,768 positions, before any loss scale could save them."""
    torch.manual_seed(0)
    count, channels, vocab, scale = 32768, 8, 1024, 2.0**16
    hidden, weight = torch.randn(count, channels), torch.randn(vocab, channels) * 0.05
    targets = torch.randint(vocab, (count,))

    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        given = [hidden.to(dtype).requires_grad_(), weight.clone().requires_grad_()]
        objective, _ = fused._LinearCrossEntropy.apply(*given, targets, 0.0, 0.0, count)
        return [x.float() / scale for x in torch.autograd.grad(scale * objective, given)]

    for got, expected in zip(gradients(torch.float16), gradients(torch.float32), strict=True):
        assert (got - expected).norm() < 1e-3 * expected.norm()


def test_chunks_are_as_large_as_the_device_likes() -> None:
    assert chunk_tokens("cpu", 65536) == chunk_tokens("cpu", 2) == CHUNK_TOKENS
    assert chunk_tokens("cuda", 65536) == chunk_tokens("cuda", 300, 2**33) == GPU_CHUNK_TOKENS
    assert chunk_tokens("cuda", 2**18) == chunk_tokens("cuda", 65536, 2**33) == CHUNK_TOKENS
    assert chunk_tokens("cuda", 65536, 24 * 2**30) == 768
    assert chunk_tokens("cuda", 65536, 141 * 10**9) == GPU_CHUNK_TOKENS


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
