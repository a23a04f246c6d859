"""Laws of fine-tuning, for every model: what is computed at first, and what has a gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.contract import TRAINING_FACTOR
from models.long_context.segments import segmented_objective
from models.meta import build_meta
from models.registry import build
from models.tuning import (
    LORA,
    STATE,
    Tuning,
    adapted_names,
    frozen_names,
    merged,
    spared_flops,
    trained_names,
    tune,
    tuned_groups,
)
from tests.registered_models import NAMES, is_recurrent, separated, spec_of, steady

NO_LINEAR = ["seq2seq", "pointer"]
"""Models without a linear layer in their blocks."""
RECURRENT = [name for name in NAMES if is_recurrent(name)]
ADAPTERS = Tuning.of(LORA, 4, 8.0, ())
STATES = Tuning.of(STATE, 0, 0.0, ())


def made(name: str, tuning: Tuning | None = None, **config: Any) -> Any:
    """A model in which every parameter matters, perhaps tuned."""
    spec = spec_of(name)
    torch.manual_seed(0)
    model: Any = build(replace(spec, config={**spec.config, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    if tuning is not None:
        tune(model, tuning, seed=1)
    return model


def shake(model: Any) -> None:
    """As if what is trained had been trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


def tokens_of(model: Any, rows: int = 2, length: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randint(model.config.vocab_size, (2, rows, length))
    return separated(model, both[0]), both[1]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_LINEAR])
def test_adapters_begin_as_nothing_alone_are_trained_and_can_be_merged(name: str) -> None:
    plain, adapted = made(name), made(name, ADAPTERS)
    tokens, targets = tokens_of(plain)
    with torch.no_grad():
        assert torch.equal(adapted(tokens)[0], plain(tokens)[0])
    shake(adapted)
    adapted.gradient_checkpointing = True
    adapted.objective(tokens, targets)[0].backward()
    trained = {n for n, each in adapted.named_parameters() if each.grad is not None}
    assert trained == {*trained_names(adapted)} and all(".lora_" in n for n in trained)
    assert frozen_names(adapted) == {*plain.state_dict()}
    (group,) = tuned_groups(adapted)
    assert {*group.names} == trained and group.decay
    # Single tokens too, which no native program may take: it would read the weights alone.
    plain, adapted = steady(plain), steady(adapted)
    with torch.no_grad():
        expected = adapted(tokens)[0]
        last, state = adapted(tokens[:, :-1], adapted.init_state(2))
        stepped = adapted(tokens[:, -1:], state)[0]
        both = torch.cat((last, stepped), dim=1)
        torch.testing.assert_close(both, expected, atol=2e-5, rtol=2e-5)
        own = {n: each for n, each in adapted.state_dict().items() if n in trained}
        plain.load_state_dict(merged(plain.state_dict(), own, ADAPTERS))
        torch.testing.assert_close(plain(tokens)[0], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NO_LINEAR)
def test_a_model_without_linear_layers_says_that_it_cannot_be_adapted(name: str) -> None:
    with pytest.raises(UserError, match=r"tune=lora: the .* has no linear layer in its blocks"):
        made(name, ADAPTERS)


def counted(model: Any, rows: int, length: int) -> int:
    """Operations of forward and backward pass, as torch counts them."""
    tokens, targets = tokens_of(model, rows, length)
    with FlopCounterMode(display=False) as counter:
        model.objective(tokens, targets)[0].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_the_operations_that_frozen_weights_spare(name: str) -> None:
    plain, adapted = made(name, attention="math"), made(name, ADAPTERS, attention="math")
    full, lora = counted(plain, 2, 50), counted(adapted, 2, 50)
    own = TRAINING_FACTOR * (adapted.flops(2, 50) - plain.flops(2, 50))
    # Torch's counter does not know the product of the fused loss for the head's gradient.
    said = own - spared_flops(adapted, 100) + 2 * 100 * plain.head.weight.numel()
    # Beside that, autograd leaves out the gradient of what enters the first layer's products: of
    # its attention's, W and A.
    first = adapted.blocks[0].att.qkv
    unused = 2 * 100 * first.in_features * (first.out_features + ADAPTERS.rank)
    assert lora - full == said - unused


def test_targets_are_layers_parts_or_last_names() -> None:
    model = build_meta(spec_of("rwkv6"))
    assert adapted_names(model, ("att.key", "ffn")) == [
        "att.key", "ffn.key", "ffn.receptance", "ffn.value",
    ]  # fmt: skip
    assert adapted_names(model, ("value",)) == ["att.value", "ffn.value"]
    with pytest.raises(UserError, match=r"no linear layer q_proj.*it has att.receptance, att.key"):
        adapted_names(model, ("att", "q_proj"))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_learned_where_there_is_one(name: str) -> None:
    if name not in RECURRENT:
        way_out = "$" if name in NO_LINEAR else ": use tune=lora$"
        with pytest.raises(UserError, match=f"no recurrent state that could be learned{way_out}"):
            made(name, STATES)
        return
    plain, tuned = made(name), made(name, STATES)
    tokens, targets = tokens_of(plain)
    with torch.no_grad():
        before, after = plain(tokens)[0], tuned(tokens)[0]
    if name == "rwkv4":  # whose sums begin with a small weight
        assert 0 < float((after - before).norm() / before.norm()) < 0.05
    else:
        assert torch.equal(after, before)
    shake(tuned)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[0, 20] = starts[1, 33] = True
    with torch.no_grad():
        whole = tuned(tokens)[0]
        assert not torch.allclose(whole, before, atol=1e-4)
        assert torch.equal(tuned(tokens, tuned.init_state(2))[0], whole)
        packed = tuned(tokens, starts=starts)[0]
        torch.testing.assert_close(packed[0, 20:], tuned(tokens[:1, 20:])[0][0])
        first, _ = tuned(tokens[:, :1], tuned.init_state(2))  # perhaps a native step
        torch.testing.assert_close(first[:, 0], whole[:, 0], atol=2e-5, rtol=2e-5)
    expected = gradients(tuned, tuned.objective(tokens, targets, starts=starts)[0])
    assert {n for n, _ in expected} == {*trained_names(tuned)}
    (group,) = tuned_groups(tuned)
    assert {*group.names} == {*trained_names(tuned)} and not group.decay
    parts = segmented_objective(tuned, tokens, targets, 7, starts=starts)[0]
    for (_, ours), (_, theirs) in zip(gradients(tuned, parts), expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    with pytest.raises(UserError, match="do not reach the state before the first token"):
        segmented_objective(tuned, tokens, targets, 7, truncated=True)


def gradients(model: Any, objective: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Of what is trained, by name; and none is left behind."""
    objective.backward()
    found = [(n, each.grad) for n, each in model.named_parameters() if each.grad is not None]
    for each in model.parameters():
        each.grad = None
    return found


def test_a_state_through_65536_tokens() -> None:
    """The gradient of the whole sequence, of a state that is hardly forgotten, from segments."""
    sizes = {"n_layer": 2, "n_embd": 16, "head_size": 16, "n_ffn": 16, "vocab_size": 32}
    ranks = dict.fromkeys(("lora_decay", "lora_rate", "lora_value", "lora_gate"), 4)
    model = made("rwkv7", STATES, **sizes, **ranks)
    with torch.no_grad():
        for block in model.blocks:
            block.att.w0.fill_(-12)  # e^-0.2 of the state is left after all of them
            block.att.a0.fill_(-12)  # and nothing is overwritten
    shake(model)
    tokens, targets = tokens_of(model, 1, 65_536)
    targets[:, :-1000] = tokens[:, :-1000]
    expected = gradients(model, model.objective(tokens, targets)[0])
    parts = segmented_objective(model, tokens, targets, 5000)[0]
    for (_, ours), (_, theirs) in zip(gradients(model, parts), expected, strict=True):
        assert float(theirs.norm()) > 0
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_a_tuning_is_read_as_it_is_written() -> None:
    for tuning in (ADAPTERS, STATES, Tuning.of(LORA, 2, 3.0, ["att"])):
        assert Tuning.parse(tuning.as_dict()) == tuning
    for change in ({"rank": 0}, {"mode": "full"}, {"targets": [1]}, {"alpha": "x"}, {"more": 1}):
        with pytest.raises(ValueError, match="tuning"):
            Tuning.parse(ADAPTERS.as_dict() | change)
