"""Alignment scores and reaches, beside their published formulas typed again in fp64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.layers.alignment import REACHES, SCORES, Alignment, choose

B, S, C, D = 5, 11, 6, 2


def built(score: str = "general", reach: str = "global", window: int = D) -> Alignment:
    torch.manual_seed(0)
    return Alignment(score, C, reach, window, 20 if score == "location" else None).double()


def some(*shape: int, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def one_score(name: str, q: Tensor, h: Tensor, j: int, w: dict[str, Tensor]) -> float:
    """e_j of one query `[C]` and one annotation `[C]`, as the paper has it."""
    if name == "dot":
        return float((q * h).sum())
    if name == "scaled_dot":
        return float((q * h).sum()) / math.sqrt(C)
    if name == "general":
        return float(q @ (w["score.key.weight"] @ h))
    if name == "additive":
        inner = w["score.query.weight"] @ q + w["score.key.weight"] @ h
        return float(w["score.v.weight"][0] @ inner.tanh())
    if name == "location":
        return float(w["score.query.weight"][j] @ q)
    k = w["score.query.weight"] @ q
    beta = math.log1p(math.exp(float(w["score.beta.weight"][0] @ q + w["score.beta.bias"])))
    return beta * float(k @ h / (k.norm() * h.norm()))


def expected(
    name: str, reach: str, q: Tensor, h: Tensor, length: int, step: int, w: dict[str, Tensor]
) -> list[float]:
    """The weights of one row."""
    center = float(step)
    if reach == "local_p":
        inner = float(w["v.weight"][0] @ (w["place.weight"] @ q).tanh())
        center = length / (1 + math.exp(-inner))
    seen = [j for j in range(length) if reach == "global" or abs(j - center) <= D]
    raw = {j: math.exp(one_score(name, q, h[j], j, w)) for j in seen}
    weights = [raw.get(j, 0.0) / sum(raw.values()) if raw else 0.0 for j in range(S)]
    if reach == "local_p":
        sigma = D / 2
        weights = [
            a * math.exp(-((j - center) ** 2) / (2 * sigma**2)) for j, a in enumerate(weights)
        ]
    return weights


@torch.no_grad()
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("score", SCORES)
def test_weights_are_those_of_the_papers(score: str, reach: str) -> None:
    alignment = built(score, reach)
    w = dict(alignment.named_parameters())
    q, h = some(B, C), some(B, S, C, seed=2)
    lengths, step = torch.tensor([11, 4, 1, 7, 0]), torch.tensor([0, 3, 9, 5, 2])
    keys = alignment.score.keys(h)
    weights = alignment(q, keys, lengths, step).exp()
    for row in range(B):
        wanted = expected(score, reach, q[row], h[row], int(lengths[row]), int(step[row]), w)
        assert weights[row].tolist() == pytest.approx(wanted, abs=1e-9)
    if reach == "local_m":
        assert not weights[2].any(), "the window of step 9 is behind a source of 1"


@pytest.mark.parametrize("reach", REACHES)
def test_gradients_are_finite_where_nothing_can_be_read(reach: str) -> None:
    alignment = built("additive", reach)
    q, h = some(B, C).requires_grad_(), some(B, S, C, seed=2).requires_grad_()
    logs = alignment(q, alignment.score.keys(h), torch.zeros(B, dtype=torch.int64), torch.ones(B))
    logs.exp().sum().backward()
    assert logs.isneginf().all()
    assert all(x.grad is not None and not x.grad.any() for x in (q, h))


def test_the_window_of_local_p_moves_by_its_gradient() -> None:
    alignment = built("dot", "local_p", window=5)
    values = some(B, S, C, seed=2)
    logs = alignment(some(B, C), values, torch.full((B,), S), torch.zeros(B))
    (logs.exp() * torch.arange(S)).sum().backward()
    assert alignment.place.weight.grad is not None and alignment.place.weight.grad.any()


def test_content_does_not_see_the_length_of_a_vector() -> None:
    alignment = built("content")
    q, h = some(B, C), some(B, S, C, seed=2)
    lengths = torch.full((B,), S)
    first = alignment(q, alignment.score.keys(h), lengths, lengths)
    scaled = alignment(q, alignment.score.keys(7 * h), lengths, lengths)
    torch.testing.assert_close(scaled, first)


@pytest.mark.parametrize("width", [16, 256])
def test_scaling_keeps_the_variance_of_scores_at_one(width: int) -> None:
    alignment = Alignment("scaled_dot", width, "global", 1, None).double()
    q, h = some(400, width), some(400, 30, width, seed=2)
    assert alignment.score(q, h).var().item() == pytest.approx(1, rel=0.1)


def test_choices_are_drawn_as_often_as_they_weigh() -> None:
    torch.manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    rows = 20_000
    hot, log_p, entropy = choose((0.5 * p).log().expand(rows, -1), sample=True)
    share = hot.mean(0)
    assert ((share - p).abs() <= 5 * (p * (1 - p) / rows).sqrt()).all()
    torch.testing.assert_close(log_p, (hot @ p).log())
    torch.testing.assert_close(entropy, -(p[:3] * p[:3].log()).sum().expand(rows))
    assert (hot.sum(1) == 1).all() and not hot[:, 3].any()


def test_the_likeliest_is_chosen_and_nothing_where_nothing_is() -> None:
    logs = torch.tensor([[-1.0, -0.5, -math.inf], [-math.inf] * 3], requires_grad=True)
    hot, log_p, entropy = choose(logs, sample=False)
    assert hot.tolist() == [[0, 1, 0], [0, 0, 0]]
    (log_p.sum() + entropy.sum()).backward()
    assert log_p[1] == entropy[1] == 0
    assert logs.grad is not None and logs.grad.isfinite().all()
