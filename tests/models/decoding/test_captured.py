"""One token from fixed buffers: the tokens of the ordinary path, and nothing of the state moves.

Without a GPU a replay is a call of what would be captured: all of it but the capture itself.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.contract import State, clone_state, named_tensors
from models.decoding import captured
from models.decoding.captured import AHEAD, Decoder, OneToken, can_capture, room_for
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from tests.registered_models import NAMES, shaken, some_tokens

PROMPT = 40
MODELS = ["gpt", "lstm", "rwkv4", "rwkv7", "transformer", "transformer window=24"]


def started(model: Any, batch: int, length: int = PROMPT) -> State:
    with torch.no_grad():
        return model.hidden(some_tokens(batch, length), model.init_state(batch))[1]


@torch.no_grad()
def eager(model: Any, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    hidden, state = model.hidden(tokens, state)
    return model.head(hidden), state


def addresses(one: OneToken) -> list[int]:
    leaves = [leaf for _, leaf in named_tensors(one.state)]
    return [each.data_ptr() for each in (one.tokens, one.logits, *leaves)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_tokens_from_buffers_that_stay(name: str, batch: int) -> None:
    model = shaken(name).eval()
    state = started(model, batch)
    one, given = OneToken(model, state), clone_state(state)
    before, exact = addresses(one), 0.0 if model.recurrent else 1e-5
    for token in some_tokens(batch, 12, seed=3).split(1, dim=1):
        got = one(token)
        want, state = eager(model, token, state)
        torch.testing.assert_close(got, want, rtol=exact, atol=exact)
        assert torch.equal(got.argmax(-1), want.argmax(-1))
        assert addresses(one) == before, "a tensor of the state was allocated anew"
    assert one.captures == 1 and one.rows == batch
    one.load(given)  # from the same place again, into the same buffers
    assert addresses(one) == before and one.captures == 1
    token = some_tokens(batch, 1, seed=3)
    first = one(token).clone()
    one.load(given)
    assert torch.equal(one(token), first)


def test_a_full_cache_is_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.layers.attention_block.AHEAD", 2)
    monkeypatch.setattr("models.layers.attention_block.room_for", lambda needed: needed)
    model = shaken("transformer").eval()
    state = started(model, 2)
    one = OneToken(model, state)
    for token in some_tokens(2, 7, seed=4).split(1, dim=1):
        got = one(token)
        want, state = eager(model, token, state)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert one.captures == 4  # for two tokens each


def test_a_ring_goes_round_without_a_capture() -> None:
    model = shaken("transformer window=24").eval()
    state = started(model, 1, length=20)
    one = OneToken(model, state)
    for token in some_tokens(1, 40, seed=5).split(1, dim=1):
        got = one(token)
        want, state = eager(model, token, state)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert one.captures == 1 and one.state["blocks"]["0"]["k"].shape[2] == 24


def test_what_no_token_has_filled_is_not_read() -> None:
    """Not even times zero: a NaN would stay one."""
    model = shaken("gpt").eval()
    one = OneToken(model, model.init_state(1))
    assert one(some_tokens(1, 1)).isfinite().all()


def test_another_batch_is_another_capture() -> None:
    model = shaken("rwkv4").eval()
    one = OneToken(model, started(model, 1))
    one.load(started(model, 3))
    assert one.captures == 2


def test_learned_positions_end() -> None:
    model = shaken("gpt", n_positions=PROMPT + 1).eval()
    one = OneToken(model, started(model, 1))
    one(some_tokens(1, 1))
    with pytest.raises(UserError, match="learned positions"):
        one(some_tokens(1, 1))


@pytest.mark.parametrize("needed", [1, 255, 256, 257, 4353, 100_000, 1 << 20])
def test_room(needed: int) -> None:
    room = room_for(needed)
    assert needed <= room <= max(needed + AHEAD, needed * 9 / 8)


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_generate_takes_it_where_there_is_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken(name).eval()
    prompt = some_tokens(1, 9)[0]
    want = [*generate(model, prompt, 30, Sampling(temperature=0.0))]
    assert not can_capture(model)
    used: list[str] = []
    honest = Decoder.__call__

    def call(decoder: Decoder, tokens: Tensor) -> Tensor:
        used.append(decoder.how)
        return honest(decoder, tokens)

    monkeypatch.setattr(Decoder, "__call__", call)
    monkeypatch.setattr(captured, "can_capture", lambda model: True)
    assert [*generate(model, prompt, 30, Sampling(temperature=0.0))] == want
    assert used == ["graph"] * 29
    used.clear()
    assert [*generate(model, prompt, 10, Sampling(temperature=0.0))] == want[:10]
    assert "graph" not in used, "a capture takes as long as a few tokens"


def test_what_cannot_be_captured_is_decoded_call_by_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(one: OneToken) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    captured._notice.cache_clear()
    monkeypatch.setattr(captured, "can_capture", lambda model: True)
    monkeypatch.setattr(OneToken, "_capture", refuse)
    model = shaken("rwkv4").eval()
    decoder = Decoder(model, started(model, 1))
    assert decoder.how == model.backends()["step"]
    assert "decoding without a CUDA graph, which is slower (operation not" in caplog.text
    with torch.no_grad():
        assert decoder(some_tokens(1, 1)).isfinite().all()


def test_every_trunk_has_fixed_buffers() -> None:
    """All but stacks of several kinds, and models whose states are of several kinds or trees, or
    change their shape."""
    others = ("hybrid", "hull", "snail", "seq2seq", "encdec", "pointer")
    assert all(shaken(name).can_fix for name in NAMES if name not in others)
