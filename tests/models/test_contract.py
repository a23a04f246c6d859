"""The laws of `models/contract.py`, for every model that has a YAML."""

from __future__ import annotations

import dataclasses
import io
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.contract import Model, clone_state, detach_state, named_tensors, separator_of
from models.registry import build, model_class
from tests.registered_models import (
    NAMES,
    VARIANTS,
    VOCAB,
    separated,
    shaken,
    some_tokens,
    spec_of,
    steady,
)

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Any:
    return shaken(request.param).eval()


def test_is_a_model(model: Any) -> None:
    assert isinstance(model, Model)


@torch.no_grad()
def test_causal(model: Any) -> None:
    tokens = some_tokens(2, 40)
    changed = tokens.clone()
    changed[:, 23] = (changed[:, 23] + 1) % VOCAB
    before, _ = model(tokens)
    after, _ = model(changed)
    torch.testing.assert_close(after[:, :23], before[:, :23], **TOLERANCE)
    assert (after[:, 23:] - before[:, 23:]).abs().amax(dim=(0, 2)).min() > 1e-4


@torch.no_grad()
def test_batch_rows_are_independent(model: Any) -> None:
    model = steady(model)
    tokens = some_tokens(3, 33)
    together, _ = model(tokens)
    for row in range(3):
        alone, _ = model(tokens[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1,), (17,), (64, 65, 90), (1, 2, 3, 99)])
def test_any_split_gives_the_same_logits(model: Any, cuts: tuple[int, ...]) -> None:
    model = steady(model)
    tokens = some_tokens(2, 100)
    whole, none = model(tokens)
    assert none is None
    state, parts = model.init_state(2), []
    for start, stop in zip((0, *cuts), (*cuts, 100), strict=True):
        part, state = model(tokens[:, start:stop], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **TOLERANCE)


@torch.no_grad()
def test_200_single_steps_equal_one_pass(model: Any) -> None:
    model = steady(model)
    tokens = some_tokens(2, 200)
    whole, _ = model(tokens)
    state = model.init_state(2, capacity=200)
    for position in range(200):
        logits, state = model(tokens[:, position : position + 1], state)
        torch.testing.assert_close(logits[:, 0], whole[:, position], **TOLERANCE)


@torch.no_grad()
def test_a_cloned_state_continues_twice(model: Any) -> None:
    _, state = model(some_tokens(1, 20), model.init_state(1))
    kept = clone_state(state)
    first, _ = model(some_tokens(1, 5, seed=2), state)
    again, _ = model(some_tokens(1, 5, seed=2), kept)
    torch.testing.assert_close(again, first)


def test_states_are_trees_of_tensors_that_can_be_saved(model: Any) -> None:
    _, state = model(some_tokens(1, 20), model.init_state(1))
    buffer = io.BytesIO()
    torch.save(detach_state(state), buffer)
    buffer.seek(0)
    loaded = dict(named_tensors(torch.load(buffer, weights_only=True)))
    original = dict(named_tensors(state))
    assert loaded.keys() == original.keys()
    assert all(not loaded[name].requires_grad for name in loaded)
    logits, _ = model(some_tokens(1, 3), state)
    again, _ = model(some_tokens(1, 3), torch.load(io.BytesIO(buffer.getvalue())))
    torch.testing.assert_close(again, logits)


@pytest.mark.parametrize("length", [1, 7, 600])
def test_loss_is_forward_and_cross_entropy(model: Any, length: int) -> None:
    tokens, targets = some_tokens(2, length), some_tokens(2, length, seed=9)
    loss, _ = model.loss(tokens, targets)
    loss.backward()
    fused = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits, _ = model(tokens)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    plain.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            atol = 1e-6 * max(1.0, float(parameter.grad.abs().max()))
            torch.testing.assert_close(fused[name], parameter.grad, rtol=1e-3, atol=atol)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor) and one.is_floating_point():  # no scratch bytes
                self.elements = max(self.elements, one.numel())
        return result


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_never_holds_all_logits(name: str) -> None:
    vocab, length = 4001, 1000
    model: Any = build(spec_of(name, vocab=vocab))
    tokens = some_tokens(2, length)
    with LargestTensor() as seen:
        model.loss(tokens, tokens)[0].backward()
    assert seen.elements <= 512 * vocab < 2 * length * vocab
    with LargestTensor() as seen:
        model(tokens)
    assert seen.elements == 2 * length * vocab, "the instrument must see logits where they exist"


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    grads = []
    for checkpointing in (False, True):
        model = shaken(name)
        model.gradient_checkpointing = checkpointing
        model.loss(some_tokens(2, 50), some_tokens(2, 50, seed=3))[0].backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("past", [0, 30])
def test_flops_agree_with_a_count(name: str, past: int) -> None:
    """Within 3 % both ways; the counter knows what the recurrences count for themselves."""
    options = {*model_class(spec_of(name).target).options} & {*shaken(name).backends()}
    exact_kernel = {"attention": "math"} if "attention" in options else {}
    model = shaken(name, **exact_kernel)
    for batch, length in itertools.product((1, 3), (16, 64, 200)):
        with torch.no_grad():
            state = model.init_state(batch)
            before = separated(model, some_tokens(batch, past), past - 1)
            state = model(before, state)[1] if past else None
            with FlopCounterMode(display=False) as counter:
                model(separated(model, some_tokens(batch, length)), state)
        counted = counter.get_total_flops()
        predicted = model.flops(batch, length, past=past, dense=True)
        assert 0.97 * counted <= predicted <= 1.03 * counted, (batch, length)


def test_flops_grow_as_the_architecture_says(model: Any) -> None:
    lengths = [256, 512, 768, 1024]
    totals = [model.flops(1, length) for length in lengths]
    first = [b - a for a, b in itertools.pairwise(totals)]
    second = {b - a for a, b in itertools.pairwise(first)}
    assert len(second) == 1
    recurrent = model.recurrent
    linear = recurrent or getattr(model.config, "window", None)
    linear = linear or getattr(model.config, "attention", None) == "none"  # of so many places
    assert second == {0} if linear else second.pop() > 0
    if separator_of(model) is None:  # a source is read as a whole
        assert recurrent == (model.flops(1, 512) == model.flops(1, 512, dense=True))


def test_flops_of_steps_add_up(model: Any) -> None:
    if separator_of(model) is not None:
        pytest.skip("a past is another one than the beginning of a row: it ends with the separator")
    steps = sum(model.flops(3, 1, past=past) for past in range(50))
    assert steps == model.flops(3, 50)


def test_config_rebuilds_the_model(model: Any) -> None:
    again = type(model)(type(model.config)(**dataclasses.asdict(model.config)))
    again.load_state_dict(model.state_dict())
    tokens = some_tokens(1, 10)
    torch.testing.assert_close(again.eval()(tokens)[0], model(tokens)[0], rtol=0, atol=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.config.n_layer = 3


def test_param_groups_name_every_parameter_once(model: Any) -> None:
    named = [name for group in model.param_groups() for name in group.names]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    decayed = {name for group in model.param_groups() if group.decay for name in group.names}
    assert "emb.weight" in decayed and any(name.startswith("head.") for name in decayed)
    assert not any("ln" in name for name in decayed)


def test_state_differentiates_in_a_recurrent_model(model: Any) -> None:
    if not model.recurrent:
        pytest.skip("attention caches are written in place")
    _, state = model(some_tokens(1, 12), model.init_state(1))
    logits, _ = model(some_tokens(1, 12, seed=4), state)
    logits.square().sum().backward()
    cut = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    whole, _ = model(torch.cat((some_tokens(1, 12), some_tokens(1, 12, seed=4)), dim=1))
    whole[:, 12:].square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(cut[name], parameter.grad, rtol=1e-3, atol=3e-4)


@torch.no_grad()
def test_next_logits_are_the_last_of_forward(model: Any) -> None:
    tokens = some_tokens(2, 40)
    every, expected = model(tokens, model.init_state(2))
    logits, state = model.next_logits(tokens, model.init_state(2))
    torch.testing.assert_close(logits, every[:, -1], **TOLERANCE)
    for (name, mine), (_, other) in zip(named_tensors(state), named_tensors(expected), strict=True):
        if "k" not in name.split(".") and "v" not in name.split("."):  # caches have unset room
            torch.testing.assert_close(mine, other, **TOLERANCE)
