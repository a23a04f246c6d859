"""The pointer network: beside its equations written out, its places, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models.pointer import FAR
from models.registry import build
from tests.models.test_seq2seq import lstm, norm
from tests.registered_models import separated, shaken, some_tokens, spec_of

MARK, PLACES = 30, 12  # the tokens 18 to 29 stand for places
ENDS = (0, 3, 9, 12, 19)  # of the source in each row; the last row has no separator


def made(**options: Any) -> Any:
    return shaken("pointer", separator=MARK, places=PLACES, **options).double().eval()


def rows() -> Tensor:
    tokens = some_tokens(len(ENDS), 19) % MARK
    for row, place in enumerate(ENDS):
        tokens[row, place : place + 1] = MARK
    tokens[2, 11:15] = torch.tensor([18, 26, 27, 22])  # 27 is behind a source of nine
    return tokens


@torch.no_grad()
def expected(model: Any, tokens: list[int]) -> Tensor:
    """The logits of one row, `[T, V]`, token by token; of one layer without a glimpse."""
    w, item = dict(model.named_parameters()), model.config.item
    x = [w["emb.weight"][token] for token in tokens]
    end = tokens.index(MARK) if MARK in tokens else len(tokens)
    onward = lstm(x[:end], w, "blocks.0.onward")
    back = lstm(x[:end][::-1], w, "blocks.0.backward_")[::-1]
    h = [torch.cat(both) for both in zip(onward, back, strict=True)]
    items = [h[i * item + item - 1] for i in range(len(h) // item)][:PLACES]
    width, half = len(x[0]), len(x[0]) // 2
    ends = torch.cat((h[-1][:half], h[0][half:])) if h else torch.zeros(width).double()
    begin = (w["decoder.bridge.weight"] @ ends + w["decoder.bridge.bias"]).view(2, width)
    s, c, fed = begin[0].tanh(), begin[1], torch.zeros(width).double()
    hidden, scores = x[:end], [torch.zeros(PLACES).double()] * end
    for token, embedded in zip(tokens[end:], x[end:], strict=True):
        place = token - (MARK - PLACES)
        inner = items[place] if 0 <= place < len(items) else embedded
        gates = w["decoder.cells.0.weight"] @ torch.cat((inner, fed, s))
        i, f, g, o = (gates + w["decoder.cells.0.bias"]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        s = o.sigmoid() * c.tanh()
        fed = (w["decoder.combine.weight"] @ s).tanh()
        up = w["decoder.up.weight"] @ norm(fed, w, "decoder.ln")
        up = up * 0.5 * (1 + torch.erf(up / 2**0.5))
        a = fed + w["decoder.down.weight"] @ up
        u = torch.full((PLACES,), FAR).double()
        for k, e in enumerate(items):
            sum_of_both = w["pointer.query.weight"] @ a + w["pointer.key.weight"] @ e
            u[k] = w["pointer.v.weight"][0] @ sum_of_both.tanh()
        hidden, scores = [*hidden, a], [*scores, u]
    first, logits = MARK - PLACES, []
    for one, u in zip(hidden, scores, strict=True):
        words = w["head.words.weight"] @ norm(one, w, "ln_out")
        logits.append(torch.cat((words[:first], u, words[first:])))
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("item", [1, 2])
def test_logits_are_those_of_the_equations(item: int) -> None:
    model, tokens = made(item=item), rows()
    logits, _ = model(tokens)
    for row, wanted in enumerate(tokens.tolist()):
        torch.testing.assert_close(logits[row], expected(model, wanted), rtol=1e-8, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"item": 2}, {"attention": "additive", "n_layer": 2}], ids=str)
def test_rows_with_separators_anywhere_can_be_read_in_parts(options: dict[str, Any]) -> None:
    model, tokens = made(**options), rows()
    whole, _ = model(tokens)
    state, parts, cuts = model.init_state(len(tokens)), [], (1, 2, 3, 4, 9, 10, 12, 13)
    for first, end in zip((0, *cuts), (*cuts, 19), strict=True):
        part, state = model(tokens[:, first:end], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@torch.no_grad()
def test_it_points_at_what_the_source_has_and_at_nothing_else() -> None:
    model, tokens = made(item=2), rows()
    shares = model(tokens)[0].softmax(-1)
    for row, end in enumerate(ENDS[:4]):
        places = shares[row, end:, MARK - PLACES : MARK]
        assert (places[:, : end // 2] > 0).all() and not places[:, end // 2 :].any()


@torch.no_grad()
def test_a_source_may_have_more_items_than_places() -> None:
    model = made()
    tokens = separated(model, some_tokens(1, 60) % MARK)
    shares = model(tokens)[0].softmax(-1)
    assert (shares[0, 30:, MARK - PLACES : MARK] > 0).all()


def test_flops_are_those_of_a_separator_in_the_middle() -> None:
    model = shaken("pointer", separator=MARK, places=PLACES, item=2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(separated(model, some_tokens(2, 64)))
    assert model.flops(2, 64) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"selection": "hard", "attention": "dot"}, "what a pointer network writes is its choice"),
        ({"places": 0}, "model.places=0: 1 or more"),
        ({"places": 31}, "model.places=31: 1 or more, as there are tokens before the separator"),
        ({"item": 0}, "model.item=0 must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        build(spec_of("pointer", separator=MARK, **options))
