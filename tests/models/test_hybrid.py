"""Stacks of several kinds of blocks: their ends are the pure models; what no stack is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.errors import UserError
from models.contract import named_tensors
from models.registry import build, is_recurrent
from probes.plan.cost_model import CostModel
from tests.registered_models import shaken, some_tokens, spec_of

ENDS = {
    "rwkv4": ("rwkv4", {}),
    "rwkv7": ("rwkv7", {"n_ffn": 280}),
    "transformer": ("attention", {}),
    "lstm": ("lstm", {}),
    "gru": ("gru", {}),
    "linear_attention": ("linear_attention", {"head_size": 32}),
    "gated_deltanet": ("gated_deltanet", {"head_size": 32, "n_ffn": 252}),
    "mamba2": ("mamba2", {"n_state": 128, "n_ffn": 116}),
}
"""The block of each model, and what differs between its smallest size and a hybrid's."""


def alike(name: str) -> tuple[Any, Any]:
    """A model, and the stack of its blocks with the same weights."""
    kind, options = ENDS[name]
    pure, stack = shaken(name, **options), shaken("hybrid", layers=f"{kind}*2")
    stack.load_state_dict(pure.state_dict())
    return pure, stack


@pytest.mark.parametrize("name", ENDS)
def test_a_stack_of_one_kind_is_that_model_to_the_bit(name: str) -> None:
    pure, stack = alike(name)
    tokens = some_tokens(2, 40)
    losses = [model.loss(tokens, tokens)[0] for model in (pure, stack)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for (key, mine), (other_key, other) in zip(
        pure.named_parameters(), stack.named_parameters(), strict=True
    ):
        assert key == other_key and torch.equal(mine.grad, other.grad)
    with torch.no_grad():
        states = [pure.init_state(2), stack.init_state(2)]
        for position in range(3):
            token = tokens[:, position : position + 1]
            (one, states[0]), (two, states[1]) = pure(token, states[0]), stack(token, states[1])
            assert torch.equal(one, two)
    (names, leaves), (others, _) = (zip(*named_tensors(s), strict=True) for s in states)
    assert names == others and leaves


@pytest.mark.parametrize("name", ENDS)
def test_a_stack_of_one_kind_says_what_that_model_says(name: str) -> None:
    pure, stack = alike(name)
    assert pure.flops(3, 50, past=7) == stack.flops(3, 50, past=7)
    assert pure.recurrent == stack.recurrent and pure.can_span == stack.can_span
    assert pure.can_step == stack.can_step and pure.backends() == stack.backends()
    told = [
        {(group.lr_scale, group.decay, *sorted(group.names)) for group in model.param_groups()}
        for model in (pure, stack)
    ]
    assert told[0] == told[1]


def test_it_begins_as_the_models_it_is_made_of() -> None:
    model: Any = build(spec_of("hybrid", layers="rwkv7,attention,rwkv7"))
    assert model.emb.weight.abs().max() <= 1e-4  # as RWKV-7, whose first block norms it
    first, attends, second = model.blocks
    assert not first.att.output.weight.any() and not second.ffn.value.weight.any()
    assert attends.att.output.weight.any()
    assert not hasattr(first.att, "v0") and hasattr(second.att, "v0")
    assert first.ln0 is not None and second.ln0 is None
    turned: Any = build(spec_of("hybrid", layers="attention,rwkv7"))
    assert turned.emb.weight.std() > 1e-2 and turned.blocks[1].ln0 is None
    assert type(turned.ln_out).__name__ == "RMSNorm" != type(model.ln_out).__name__
    assert not hasattr(turned.blocks[1].att, "v0")


@torch.no_grad()
def test_blocks_have_options_and_caches_of_their_own() -> None:
    model = shaken("hybrid", layers="rwkv7,attention(window=8)*2,attention,lstm")
    assert [getattr(block, "att", None) and getattr(block.att, "window", None)
            for block in model.blocks] == [None, 8, 8, None, None]  # fmt: skip
    _, state = model(some_tokens(3, 100), model.init_state(3))
    rooms = [dict(named_tensors(state["blocks"][str(layer)])) for layer in (1, 2, 3)]
    assert [room["k"].shape[2] for room in rooms[:2]] == [8, 8] and rooms[2]["k"].shape[2] >= 100
    wkv = dict(named_tensors(state["blocks"]["0"]))["att.wkv"]
    assert wkv.shape == (3, 2, 32, 32) and int(state["length"]) == 100


def test_the_number_of_layers_is_that_of_the_pattern_unless_it_is_said() -> None:
    assert spec_of("hybrid", layers="rwkv7*3,attention").config["n_layer"] == 4
    spec = spec_of("hybrid", layers="gru,lstm", n_layer=5)
    kinds = [type(block).__name__ for block in build(spec).blocks]  # type: ignore[attr-defined]
    assert kinds == ["GRUBlock", "LSTMBlock", "GRUBlock", "LSTMBlock", "GRUBlock"]


def test_it_is_recurrent_if_all_its_blocks_are() -> None:
    for layers, expected in (("rwkv7,gru", True), ("rwkv7,attention", False)):
        spec = spec_of("hybrid", layers=layers)
        assert is_recurrent(spec.target, spec.config) == expected
        assert build(spec).recurrent == expected


def test_a_deep_stack_is_planned_by_its_periods() -> None:
    """As exactly as one that is traced whole."""
    spec = spec_of("hybrid", layers="rwkv4,attention", n_layer=7, n_ffn="rwkv4=64,attention=64")
    cost = CostModel(spec, "cpu", "32-true")
    work = cost.work(1, 64, False)
    assert work.layers == 2 + (7 - 5) // 2
    few, more = (sum(op.flops for op in work.ops[number]) for number in (2, 3))
    whole = sum(op.flops for op in cost._trace(1, 64, 7, False))
    assert few + (work.layers - 2) * (more - few) == pytest.approx(whole, rel=1e-6)


REFUSED = [
    ("rwkv8*3", r"model.layers: no block is called 'rwkv8'; did you mean 'rwkv"),
    ("rwkv7(x=1)", r"model.layers: 'rwkv7\(x=1\)' sets x, which is no field of that block alone"),
    ("rwkv7(n_embd=32)", r"sets n_embd, which is no field of that block alone"),
    ("attention(window)", r"expected options as in attention\(window=64\)"),
    ("attention(window=a)", r"window='a' is not of the type int"),
    ("attention(window=0)", r"model.window=0 must be at least 1"),
    ("rwkv7,", r"model.layers='rwkv7,': expected parts with commas between them"),
]


@pytest.mark.parametrize(("layers", "message"), REFUSED)
def test_what_is_no_stack_is_refused(layers: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(spec_of("hybrid", layers=layers))


def test_sizes_that_do_not_fit_are_refused() -> None:
    for changes, message in (
        ({"head_size": 48}, "model.n_embd=64 must be a multiple of model.head_size=48"),
        ({"n_ffn": "foo=3"}, "model.n_ffn: no block is called 'foo'"),
        ({"n_ffn": "rwkv7"}, "model.n_ffn='rwkv7': expected widths by kind of block"),
    ):
        with pytest.raises(UserError, match=message):
            build(spec_of("hybrid", **changes))


@torch.no_grad()
def test_native_steps_of_blocks_of_different_widths_equal_one_pass() -> None:
    layers = "rwkv7,attention(window=8),rwkv7(n_ffn=96),rwkv4,attention(n_ffn=40)"
    model, tokens = shaken("hybrid", layers=layers).eval(), some_tokens(2, 40)
    assert model.can_step
    whole, state = model(tokens)[0], model.init_state(2)
    for position in range(40):
        logits, state = model(tokens[:, position : position + 1], state)
        torch.testing.assert_close(logits[:, 0], whole[:, position], rtol=1e-4, atol=2e-5)
