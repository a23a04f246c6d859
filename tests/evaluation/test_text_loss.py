"""The loss on whole texts, beside what the model says of each token and its context."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from core.errors import UserError
from data.encoding import NOT_LEARNED, Marked, plain
from data.tokenizers import byte_tokenizer, char_tokenizer
from evaluation import tables, text_loss
from tests.registered_models import VOCAB, shaken

IDS = torch.randint(VOCAB, (50,), generator=torch.Generator().manual_seed(0)).tolist()


def all_losses(model: Any, context: int | None) -> tuple[list[int], list[float]]:
    contexts: list[int] = []
    losses: list[float] = []
    for some, theirs in text_loss.token_losses(model, IDS, context):
        contexts += some.tolist()
        losses += theirs.tolist()
    return contexts, losses


def alone(model: Any, place: int, context: int) -> float:
    """The loss of the token at `place` after `context` tokens."""
    with torch.no_grad():
        logits = model(torch.tensor([IDS[place - context : place]]))[0]
    return -logits[0, -1].log_softmax(-1)[IDS[place]].item()


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_a_state_is_carried_from_piece_to_piece(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_loss, "PIECE", 8)
    model = shaken(name)
    contexts, losses = all_losses(model, None)
    assert contexts == list(range(1, 50))
    expected = [alone(model, place, place) for place in (1, 7, 8, 9, 49)]
    assert [losses[place - 1] for place in (1, 7, 8, 9, 49)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("context", [7, 8, 49, 60])
def test_windows_predict_each_token_once_with_half_a_window_before_it(context: int) -> None:
    model = shaken("transformer")
    contexts, losses = all_losses(model, context)
    assert len(contexts) == 49 and max(contexts) == min(context, 49)
    assert contexts[:context] == list(range(1, min(context, 49) + 1))
    assert min(contexts[context:], default=context) > context - context // 2 - 1
    for place in range(1, 50, 6):
        expected = alone(model, place, contexts[place - 1])
        assert losses[place - 1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("texts", [[], [plain("")], [[("a", True, NOT_LEARNED)]]])
def test_texts_without_a_token_to_predict_are_refused(texts: list[Marked]) -> None:
    with pytest.raises(UserError, match="no token to predict"):
        text_loss.text_loss(shaken("rwkv4", vocab=257), byte_tokenizer(), texts)


def test_a_text_counts_by_its_bytes_and_its_contexts() -> None:
    model = shaken("rwkv4", vocab=257)
    texts = [plain("héllo wörld"), plain("ab"), plain("x" * 20)]
    found = text_loss.text_loss(model, byte_tokenizer(), texts)
    assert (found.documents, found.bytes, found.tokens) == (3, 35, 35)
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2))
    assert [(each.low, each.high, each.tokens) for each in found.buckets] == [
        (1, 1, 3), (2, 3, 5), (4, 7, 8), (8, 15, 14), (16, 31, 5),
    ]  # fmt: skip
    weighed = sum(each.loss * each.tokens for each in found.buckets)
    assert weighed == pytest.approx(found.nats)
    shown = tables.of_text(found.as_dict())
    assert "each document as a whole" in shown and "16 to 31" in shown


def test_without_an_end_of_text_the_first_token_is_not_predicted() -> None:
    model = shaken("rwkv4", vocab=4)
    found = text_loss.text_loss(model, char_tokenizer("abcé"), [plain("éab"), plain("c")])
    assert (found.documents, found.tokens, found.bytes) == (2, 2, 2)


def test_what_is_only_read_is_context_and_does_not_count() -> None:
    model = shaken("rwkv4", vocab=257)
    tokenizer = byte_tokenizer()
    parts = [("User: héy ", True, NOT_LEARNED), ("Assistant: wörld", True, 0)]
    masked = text_loss.text_loss(model, tokenizer, [parts])
    assert tokenizer.end_of_text is not None
    whole = [tokenizer.end_of_text, *tokenizer.encode("User: héy Assistant: wörld")]
    losses = torch.cat([theirs for _, theirs in text_loss.token_losses(model, whole)])
    answer = len(tokenizer.encode("Assistant: wörld"))
    assert masked.tokens == answer == masked.bytes and masked.read_tokens == len(whole) - 1
    assert masked.nats == pytest.approx(losses[-answer:].sum().item(), rel=1e-6)
    assert masked.buckets[0].tokens == 0
    assert f"{answer} learned tokens of {len(whole) - 1}" in tables.of_text(masked.as_dict())


def test_without_an_end_of_text_an_unlearned_beginning_has_no_bytes_to_leave_out() -> None:
    parts = [("éa", True, NOT_LEARNED), ("b", True, 0)]
    found = text_loss.text_loss(shaken("rwkv4", vocab=4), char_tokenizer("abcé"), [parts])
    assert (found.tokens, found.bytes, found.read_tokens) == (1, 1, 2)
