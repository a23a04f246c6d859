"""The native single-token step: equal to the model's own torch, and never taken unasked."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.contract import clone_state, named_tensors
from models.decoding.program import MOST_ROWS, is_possible, program_for
from models.layers.attention_block import AttentionBlock
from tests.registered_models import NAMES, VARIANTS, shaken, some_tokens, spec_of

if not is_possible(shaken("rwkv4")):
    pytest.skip("the native step cannot be built here", allow_module_level=True)


@pytest.fixture(params=[name for name in VARIANTS if shaken(name).can_step])
def model(request: pytest.FixtureRequest) -> Any:
    return shaken(request.param).eval()


class Watch:
    """Counts native steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        original = program_for

        def counted(model: Any, batch: int) -> Any:
            self.steps += 1
            return original(model, batch)

        monkeypatch.setattr("models.layers.trunk.program_for", counted)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@torch.no_grad()
def torch_path(model: Any, tokens: Any, state: Any) -> Any:
    """The same call through the blocks' own forward."""
    hidden, state = model.hidden(tokens, state)
    return model.head(hidden), state


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_torch_path(model: Any, watch: Watch, batch: int) -> None:
    _, state = model(some_tokens(batch, 70), model.init_state(batch))
    other = clone_state(state)
    for position in range(5):
        token = some_tokens(batch, 1, seed=position)
        got, state = model(token, state)
        want, other = torch_path(model, token, other)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert watch.steps == 5
    ours, theirs = dict(named_tensors(state)), dict(named_tensors(other))
    assert ours.keys() == theirs.keys()
    for name, leaf in theirs.items():
        used = leaf[:, :, :75] if name.endswith((".k", ".v")) else leaf
        mine = ours[name][:, :, :75] if name.endswith((".k", ".v")) else ours[name]
        torch.testing.assert_close(mine, used, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model: Any, dtype: torch.dtype) -> None:
    exact, _ = model(some_tokens(1, 30))
    model.to(dtype)
    _, state = model(some_tokens(1, 29), model.init_state(1))
    got, _ = model(some_tokens(1, 30)[:, 29:], state)
    assert got.dtype == dtype
    assert (got[0, 0].float() - exact[0, 29]).abs().max() < 0.05 * exact.abs().max()


@torch.no_grad()
def test_results_do_not_depend_on_threads(model: Any) -> None:
    results = []
    _, state = model(some_tokens(1, 9), model.init_state(1))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        program_for(model, 1)._threads = 2
        results.append(model(some_tokens(1, 1), clone_state(state))[0])
    assert torch.equal(*results)


@torch.no_grad()
def test_follows_the_weights(model: Any) -> None:
    """Changed in place, moved to another dtype and back, and replaced."""
    token = some_tokens(1, 1)

    def check() -> None:
        got, _ = model(token, model.init_state(1))
        want, _ = torch_path(model, token, model.init_state(1))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)

    check()
    for parameter in model.parameters():
        parameter.mul_(1.1)
    check()
    model.double().float()
    check()
    weights = {name: value * 0.9 for name, value in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    check()
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.zero_()
    got, _ = twin(token, twin.init_state(1))
    want, _ = torch_path(twin, token, twin.init_state(1))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_with_a_state_each_have_the_bits_they_have_alone(model: Any, watch: Watch) -> None:
    """Sequences of other lengths; one has no token yet, and one's cache is full and grows."""
    attends_alone = all(isinstance(block, AttentionBlock) for block in model.layers)
    assert model.can_step_apart == attends_alone
    if not attends_alone:
        return
    states = []
    for row, length in enumerate((7, 0, 20, 3)):
        state = model.init_state(1, capacity=None if row == 2 else 40)
        if length:
            _, state = model(some_tokens(1, length, seed=row), state)
        states.append(state)
    alone = [clone_state(state) for state in states]
    for position in range(4):
        tokens = some_tokens(4, 1, seed=position)
        got, states = model.step_apart(tokens, states)
        for row in range(4):
            want, alone[row] = model(tokens[row : row + 1], alone[row])
            assert torch.equal(got[row], want[0])
    assert watch.steps == 1 + 4 * 5  # the first one asks whether it can
    for ours, theirs in zip(states, alone, strict=True):
        assert model.tokens_before(ours) == model.tokens_before(theirs)


@torch.no_grad()
def test_a_full_cache_grows(model: Any) -> None:
    state = model.init_state(1, capacity=64)
    whole, _ = model(some_tokens(1, 67))
    _, state = model(some_tokens(1, 64 - 1), state)
    for position in range(63, 67):
        logits, state = model(some_tokens(1, 67)[:, position : position + 1], state)
        torch.testing.assert_close(logits[:, 0], whole[:, position], rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_grouped_queries_and_odd_sizes() -> None:
    cases = [("transformer", {"n_head": 4, "n_kv_head": 2, "n_ffn": 75, "n_embd": 40})]
    cases += [("gpt", {"n_embd": 40, "n_head": 2, "bias": True})]
    can_step = [name for name in NAMES if shaken(name).can_step]
    sized = [name for name in can_step if "head_size" in spec_of(name).config]
    cases += [(name, {"n_embd": 36, "head_size": 12}) for name in sized]
    assert len(sized) >= 3
    cases += [("rwkv4", {"n_embd": 37})]
    for name, sizes in cases:
        model = shaken(name, **sizes).eval()
        _, state = model(some_tokens(2, 5), model.init_state(2))
        want, _ = torch_path(model, some_tokens(2, 1), clone_state(state))
        got, _ = model(some_tokens(2, 1), state)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_is_taken_only_where_nobody_can_see_it(model: Any, watch: Watch) -> None:
    token = some_tokens(1, 1)
    model(token, model.init_state(1))  # gradients may be wanted
    with torch.no_grad():
        model(token)  # no state
        model(some_tokens(1, 2), model.init_state(1))
        model(some_tokens(MOST_ROWS + 1, 1), model.init_state(MOST_ROWS + 1))
        with FlopCounterMode(display=False):
            model(token, model.init_state(1))
        with torch.autocast("cpu", torch.bfloat16):
            model(token, model.init_state(1))
        model.double()(token, model.init_state(1))
    assert watch.steps == 0
    assert model.backends()["step"] == "torch"


@torch.no_grad()
def test_a_kernel_chosen_by_hand_is_used(watch: Watch) -> None:
    for name, by_hand in (("rwkv7", {"wkv": "reference"}), ("transformer", {"attention": "math"})):
        model = shaken(name, **by_hand).eval()
        model(some_tokens(1, 1), model.init_state(1))
        assert model.backends()["step"] == "torch"
    assert watch.steps == 0
