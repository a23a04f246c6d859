"""Segments: the gradients of the whole sequence, for every recurrent model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.contract import detach_state
from models.long_context.segments import segmented_objective
from tests.registered_models import VARIANTS, is_recurrent, shaken, some_tokens

RECURRENT = [name for name in VARIANTS if is_recurrent(name)]
LENGTH = 100


def gradients(model: Any, objective: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    objective.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest relative error over parameters, each measured by its norm."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)


def some_batch(length: int = LENGTH) -> tuple[Tensor, Tensor]:
    return some_tokens(2, length), some_tokens(2, length, seed=9)


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("segment", [7, 32, 50, 99, LENGTH])
def test_gradients_are_those_of_the_whole_sequence(name: str, segment: int) -> None:
    model = shaken(name)
    whole, loss, _ = model.objective(*some_batch(), l2wrap=1e-2)
    expected = gradients(model, whole)
    parts, part_loss = segmented_objective(model, *some_batch(), segment, l2wrap=1e-2)
    assert distance(gradients(model, parts), expected) <= 1e-5
    torch.testing.assert_close(parts.detach(), whole.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(part_loss, loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("segment", [7, 50])
def test_segments_learn_what_the_whole_sequence_learns(segment: int) -> None:
    """Also where a segment has nothing to learn."""
    model = shaken("rwkv7")
    tokens, targets = some_batch()
    targets[:, 5:60] = -100
    total = float((targets >= 0).sum())
    whole, loss, _ = model.objective(tokens, targets, l2wrap=1e-2, total=total)
    expected = gradients(model, whole)
    parts, part_loss = segmented_objective(
        model, tokens, targets, segment, l2wrap=1e-2, total=total
    )
    assert distance(gradients(model, parts), expected) <= 1e-5
    torch.testing.assert_close(part_loss, loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", RECURRENT)
def test_truncation_cuts_the_gradient_of_the_state_and_nothing_else(name: str) -> None:
    """Against a plain loop with detached states, written independently."""
    model = shaken(name)
    tokens, targets = some_batch()
    state, expected = model.init_state(2), torch.zeros(())
    for first in range(0, LENGTH, 40):
        part = slice(first, first + 40)
        one, _, state = model.objective(tokens[:, part], targets[:, part], state)
        expected = expected + one * tokens[:, part].shape[1] / LENGTH
        state = detach_state(state)
    truncated, _ = segmented_objective(model, tokens, targets, 40, truncated=True)
    torch.testing.assert_close(truncated.detach(), expected.detach(), rtol=1e-5, atol=0)
    cut = gradients(model, expected)
    assert distance(gradients(model, truncated), cut) <= 1e-5
    assert distance(gradients(model, model.objective(tokens, targets)[0]), cut) > 1e-3


@pytest.mark.parametrize("truncated", [False, True])
def test_a_scaled_loss_scales_the_gradients(truncated: bool) -> None:
    """What accumulation over micro-batches does to a loss."""
    model = shaken("rwkv7")
    once = gradients(model, segmented_objective(model, *some_batch(), 30, truncated=truncated)[0])
    half = segmented_objective(model, *some_batch(), 30, truncated=truncated)[0] / 4
    scaled = {name: 4 * gradient for name, gradient in gradients(model, half).items()}
    assert distance(scaled, once) <= 1e-5


@pytest.mark.parametrize("truncated", [False, True])
def test_both_passes_run_in_the_same_precision(truncated: bool) -> None:
    model = shaken("rwkv7")
    with torch.autocast("cpu", torch.bfloat16):
        whole = model.objective(*some_batch())[0]
        parts = segmented_objective(model, *some_batch(), LENGTH, truncated=truncated)[0]
    expected = gradients(model, whole)
    # One segment: the very same operations, so any difference is one of precision.
    assert distance(gradients(model, parts), expected) == 0


def test_checkpointing_inside_segments_changes_no_gradient() -> None:
    model = shaken("rwkv6")
    expected = gradients(model, segmented_objective(model, *some_batch(), 30)[0])
    model.gradient_checkpointing = True
    again = gradients(model, segmented_objective(model, *some_batch(), 30)[0])
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_frozen_parameters_stay_without_gradient() -> None:
    model = shaken("rwkv4")
    model.emb.weight.requires_grad_(False)
    expected = gradients(model, model.objective(*some_batch())[0])
    found = gradients(model, segmented_objective(model, *some_batch(), 30)[0])
    assert distance(found, expected) <= 1e-5
    assert "emb.weight" not in found


def test_without_gradients_it_is_the_loss() -> None:
    model = shaken("rwkv5")
    with torch.no_grad():
        objective, loss = segmented_objective(model, *some_batch(), 30)
        expected, _ = model.loss(*some_batch())
    assert not objective.requires_grad
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_what_cannot_be_segmented_is_refused() -> None:
    with pytest.raises(UserError, match=r"Transformer cannot be trained in segments"):
        segmented_objective(shaken("transformer"), *some_batch(), 10)
    for segment in (0, LENGTH + 1):
        with pytest.raises(UserError, match=f"a segment of {segment} tokens does not fit"):
            segmented_objective(shaken("rwkv4"), *some_batch(), segment)
