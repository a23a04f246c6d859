"""SAGAN: the attention of its paper, the game of its two networks, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.contract import makes_rows
from models.registry import build
from models.sagan import SAGAN, ImageAttention
from tests.registered_models import spec_of

COLOURS, SIDE = 5, 6


def model_of(**by_hand: Any) -> SAGAN:
    torch.manual_seed(0)
    model: Any = build(spec_of("sagan", vocab=COLOURS, n_embd=16, **by_hand))
    return model


def rows(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a mask, of which three pixels are asked."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, COLOURS - 1, (count, SIDE**2), generator=generator)
    targets = torch.full_like(tokens, -100)
    targets[:, -3:] = 2
    return tokens.masked_fill(targets >= 0, COLOURS - 1), targets


@pytest.mark.parametrize("reach", ["all", "own"])
def test_a_gamma_of_zero_is_the_identity_to_the_bit(reach: str) -> None:
    torch.manual_seed(0)
    layer = ImageAttention(16, reach)
    x = torch.randn(2, 16, SIDE, SIDE)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.gamma.fill_(0.5)
    assert not torch.equal(layer(x), x)


def test_attention_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    layer = ImageAttention(16, "all").double().eval()
    x = torch.randn(2, 16, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    parts: list[Any] = [layer.f, layer.g, layer.h, layer.v]
    f, g, h, v = (part.weight[:, :, 0, 0] for part in parts)
    read = []
    for image in x:
        points = image.reshape(16, -1)
        scores = torch.einsum("ci,cj->ij", f @ points, g @ points)  # s_ij, key i and query j
        shares = scores.exp() / scores.exp().sum(dim=0)
        read.append((v @ (h @ points) @ shares).reshape(16, SIDE, SIDE))
    expected = x + 0.7 * torch.stack(read)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.shares(x).sum(-1), torch.ones(2, SIDE**2).double())


def test_each_network_learns_its_own_part_of_the_game() -> None:
    """In one backward pass: both gradients beside those of the two losses by themselves."""
    tokens, targets = rows()
    model = model_of().eval()  # the same noise, and norms that stand still
    with torch.no_grad():
        for network in (model.generator, model.discriminator):
            network.attention.gamma.fill_(0.3)
    objective, loss, state = model.objective(tokens, targets)
    objective.backward()
    got = {name: p.grad for name, p in model.named_parameters()}
    assert state is None and not loss.requires_grad
    assert all(p.requires_grad for p in model.parameters())

    images = torch.where(targets >= 0, targets, tokens).reshape(-1, SIDE, SIDE)
    real = F.one_hot(images, COLOURS).permute(0, 3, 1, 2).float()
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    soft = model.generator(z, SIDE).softmax(dim=1)
    hard = F.one_hot(soft.argmax(dim=1), COLOURS).permute(0, 3, 1, 2)
    made = hard + soft - soft.detach()
    of_real, of_made = model.discriminator(real), model.discriminator(made.detach())
    taught = F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()
    wanted = -model.discriminator(made).mean()
    for part, own in (("generator", wanted), ("discriminator", taught)):
        names, weights = zip(*getattr(model, part).named_parameters(), strict=True)
        for name, expected in zip(names, torch.autograd.grad(own, weights), strict=True):
            torch.testing.assert_close(got[f"{part}.{name}"], expected, atol=1e-6, rtol=1e-4)
    both = torch.cat((of_real, -of_made))
    torch.testing.assert_close(loss, F.softplus(-both).mean())


def test_an_image_counts_as_often_as_something_of_it_is_asked() -> None:
    tokens, targets = rows()
    model = model_of().eval()
    plain, weighed = model.objective(tokens, targets), model.objective(tokens, targets, total=6.0)
    for one, other in zip(plain[:2], weighed[:2], strict=True):
        torch.testing.assert_close(other, one * 4 * 3 / 6)


@pytest.mark.parametrize("reach", ["all", "own"])
def test_operations_are_those_that_are_counted(reach: str) -> None:
    tokens, targets = rows()
    model = model_of(attention=reach)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.objective(tokens, targets)
    assert counter.get_total_flops() == model.flops(4, SIDE**2)
    second = [model.flops(1, length) for length in (100, 200, 300)]
    assert (second[0] + second[2] > 2 * second[1]) == (reach == "all")


def test_every_parameter_has_a_rate_and_both_reaches_have_as_many() -> None:
    model = model_of(rate_ratio=3.0)
    named = [name for group in model.param_groups() for name in group.names]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert [group.lr_scale for group in model.param_groups()] == [1.0, 3.0]
    counts = {sum(p.numel() for p in model_of(attention=a).parameters()) for a in ("all", "own")}
    assert len(counts) == 1 and makes_rows(model)


def test_matrices_have_a_largest_singular_value_of_one() -> None:
    model, (tokens, targets) = model_of(), rows()
    for _ in range(20):
        model.objective(tokens, targets)
    model.eval()
    for name in ("h", "v"):
        matrix = getattr(model.discriminator.attention, name).weight[:, :, 0, 0]
        assert float(torch.linalg.matrix_norm(matrix.detach(), 2)) == pytest.approx(1, abs=0.02)


def test_one_model_makes_images_of_any_size_and_no_others() -> None:
    model = model_of().eval()
    for length in (16, 81):
        one, again = (model.make(3, length, torch.Generator().manual_seed(2)) for _ in range(2))
        assert one.shape == (3, length) and torch.equal(one, again)
        assert math.isqrt(length) ** 2 == length and 0 <= int(one.min()) <= int(one.max()) < COLOURS
    with pytest.raises(UserError, match="60 tokens are no square image: 49 or 64 are"):
        model.make(1, 60, torch.Generator())


@pytest.mark.parametrize(
    ("by_hand", "why"),
    [
        ({"attention": "some"}, "model.attention='some' is not one of all, own"),
        ({"n_noise": 0}, "model.n_noise=0 must be 1 or more"),
        ({"rate_ratio": 0.0}, "model.rate_ratio=0.0 must be a number above 0"),
    ],
)
def test_what_it_cannot_be_made_of_is_said(by_hand: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        model_of(**by_hand)
