"""Packed documents: for every model, each is read as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.contract import clone_state, named_tensors
from models.long_context.segments import segmented_objective
from tests.registered_models import VARIANTS, VOCAB, is_recurrent, shaken, some_tokens, steady

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
WIDTH = 90
ROWS = ((0, 20, 21, 58), (0, 64), (0,))  # where documents begin; one is a single token
RECURRENT = [name for name in VARIANTS if is_recurrent(name)]


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Any:
    return shaken(request.param).eval()


def starts_at(rows: tuple[tuple[int, ...], ...], width: int = WIDTH) -> Tensor:
    starts = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, places in enumerate(rows):
        starts[row, list(places)] = True
    return starts


def documents() -> list[tuple[int, slice]]:
    """(row, place) of every document of ROWS."""
    return [
        (row, slice(first, end))
        for row, places in enumerate(ROWS)
        for first, end in zip(places, (*places[1:], WIDTH), strict=True)
    ]


@torch.no_grad()
def test_logits_are_those_of_each_document_alone(model: Any) -> None:
    model = steady(model)
    tokens = some_tokens(3, WIDTH)
    packed, none = model(tokens, starts=starts_at(ROWS))
    assert none is None
    for row, place in documents():
        alone, _ = model(tokens[row : row + 1, place])
        torch.testing.assert_close(packed[row, place], alone[0], **TOLERANCE)
    together, _ = model(tokens)
    assert (together - packed).abs().max() > 0.01, "documents must matter to each other unpacked"


@torch.no_grad()
def test_a_document_changes_no_bit_of_another(model: Any) -> None:
    tokens, starts = some_tokens(3, WIDTH), starts_at(ROWS)
    before, _ = model(tokens, starts=starts)
    for changed_row, changed_place in documents():
        changed = tokens.clone()
        changed[changed_row, changed_place] += 1
        after, _ = model(changed % VOCAB, starts=starts)
        for row, place in documents():
            same = torch.equal(after[row, place], before[row, place])
            assert same == ((row, place) != (changed_row, changed_place))


def test_gradients_are_those_of_each_document_alone(model: Any) -> None:
    model.train(getattr(model, "chooses", False))  # what chooses has gradients only in a training
    tokens, targets = some_tokens(3, WIDTH), some_tokens(3, WIDTH, seed=9)
    objective, _, _ = model.objective(tokens, targets, l2wrap=1e-2, starts=starts_at(ROWS))
    objective.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, place in documents():
        part = slice(row, row + 1), place
        one, _, _ = model.objective(tokens[part], targets[part], l2wrap=1e-2)
        (one * targets[part].numel() / targets.numel()).backward()
    for name, parameter in model.named_parameters():
        error = (packed[name] - parameter.grad).norm() / parameter.grad.norm()
        assert error <= 1e-5, name


def test_a_row_starts_afresh_whether_it_says_so_or_not(model: Any) -> None:
    tokens, starts = some_tokens(3, WIDTH), starts_at(ROWS)
    said, _ = model.loss(tokens, tokens, starts=starts)
    starts[:, 0] = False
    unsaid, _ = model.loss(tokens, tokens, starts=starts)
    assert torch.equal(said, unsaid)
    starts[:] = False
    torch.testing.assert_close(model(tokens, starts=starts)[0], model(tokens)[0], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("cuts", [(20,), (1, 57, 58, 60), (64,)])
def test_rows_can_be_read_in_parts(name: str, cuts: tuple[int, ...]) -> None:
    """At, before and after the boundaries of documents, some parts without any."""
    model = shaken(name).eval()
    tokens, starts = some_tokens(3, WIDTH), starts_at(ROWS)
    whole, state_after = model(tokens, model.init_state(3), starts)
    state, parts = model.init_state(3), []
    for first, end in zip((0, *cuts), (*cuts, WIDTH), strict=True):
        part, state = model(tokens[:, first:end], state, starts[:, first:end])
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(whole, model(tokens, starts=starts)[0], **TOLERANCE)
    for (_, one), (_, other) in zip(named_tensors(state), named_tensors(state_after), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
    # The state is that of each row's last document alone.
    _, alone = model(tokens[:1, 58:], model.init_state(1))
    new = some_tokens(1, 5, seed=3)
    continued, _ = model(torch.cat((new, new, new)), clone_state(state_after))
    torch.testing.assert_close(continued[:1], model(new, alone)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_packed_rows_train_in_segments(name: str) -> None:
    model = shaken(name)
    tokens, starts = some_tokens(3, WIDTH), starts_at(ROWS)
    model.objective(tokens, tokens, starts=starts)[0].backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    segmented_objective(model, tokens, tokens, 25, starts=starts)[0].backward()
    for one, parameter in zip(expected, model.parameters(), strict=True):
        assert (parameter.grad - one).norm() <= 5e-5 * one.norm()


def test_padding_stays_within_its_bound() -> None:
    """Tokens really read by the blocks, for many documents of very different lengths."""
    model = shaken("rwkv4")
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(4, 4000, generator=generator) < 1 / 60
    seen: list[int] = []
    model.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0][0].shape[0] * inputs[0][0].shape[1])
    )
    with torch.no_grad():
        model(some_tokens(4, 4000), starts=starts)
    assert starts.sum() > 200
    assert 16_000 <= sum(seen) <= 1.3 * 16_000
    assert len(seen) < 20, "documents must be read together, not one by one"


def test_what_cannot_be_packed_is_refused() -> None:
    model, tokens = shaken("transformer"), some_tokens(3, WIDTH)
    with pytest.raises(UserError, match="cannot read packed documents in parts"):
        model(tokens, model.init_state(3), starts_at(ROWS))
    with pytest.raises(UserError, match=r"starts must be bool \[3, 90\] like the tokens"):
        model(tokens, starts=starts_at(ROWS)[:, 1:])
    with pytest.raises(UserError, match=r"got torch.int64"):
        model(tokens, starts=tokens)
