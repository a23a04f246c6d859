"""The encoder-decoder Transformer: beside its equations written out, and its state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.contract import named_tensors
from models.encdec import sinusoids
from models.registry import build
from tests.models.test_seq2seq import MARK, PLACES, norm, rows
from tests.registered_models import shaken, spec_of


def made(**options: Any) -> Any:
    return shaken("encdec", separator=MARK, **options).double().eval()


def attention(
    q: Tensor, x: Tensor, w: dict[str, Tensor], name: str, heads: int, causal: bool
) -> Tensor:
    """Each row of q `[T, C]` reads x `[S, C]`; section 3.2 of the paper, head by head."""
    width = q.shape[1] // heads
    keys, values = (x @ w[f"{name}.kv.weight"].T).chunk(2, dim=1)
    queries, out = q @ w[f"{name}.q.weight"].T, torch.zeros_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(q)):
            seen = range(t + 1) if causal else range(len(x))
            scores = [float(queries[t, part] @ keys[j, part]) / math.sqrt(width) for j in seen]
            total = sum(map(math.exp, scores))
            for j, score in zip(seen, scores, strict=True):
                out[t, part] += math.exp(score) / total * values[j, part]
    return out @ w[f"{name}.output.weight"].T


def normed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return torch.stack([norm(row, w, name) for row in x]) if len(x) else x


def positions(length: int, width: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/C)), PE(pos, 2i + 1) = cos of the same."""
    table = torch.zeros(length, width).double()
    for t in range(length):
        for i in range(0, width, 2):
            angle = t / 10000 ** (i / width)
            table[t, i], table[t, i + 1] = math.sin(angle), math.cos(angle)
    return table


@torch.no_grad()
def expected(model: Any, tokens: list[int]) -> Tensor:
    """The logits of one row, `[T, V]`."""
    w, c = dict(model.named_parameters()), model.config
    end = tokens.index(MARK) if MARK in tokens else len(tokens)
    x = w["emb.weight"][tokens]
    scaled = math.sqrt(c.n_embd) * x
    h = scaled[:end] + positions(end, c.n_embd)
    y = scaled[end:] + positions(len(tokens) - end, c.n_embd)
    for layer in range(c.n_layer):
        name = f"blocks.{layer}"
        z = normed(h, w, f"{name}.ln1")
        h = h + attention(z, z, w, f"{name}.att", c.n_head, causal=False)
        inner = normed(h, w, f"{name}.ln2") @ w[f"{name}.ffn.up.weight"].T
        h = h + inner.clamp(min=0) @ w[f"{name}.ffn.down.weight"].T
    h = normed(h, w, "decoder.ln")
    for layer in range(c.n_layer):
        name = f"decoder.layers.{layer}"
        z = normed(y, w, f"{name}.ln1")
        y = y + attention(z, z, w, f"{name}.att", c.n_head, causal=True)
        if end:
            z = normed(y, w, f"{name}.ln2")
            y = y + attention(z, h, w, f"{name}.cross", c.n_head, causal=False)
        inner = normed(y, w, f"{name}.ln3") @ w[f"{name}.ffn.up.weight"].T
        y = y + inner.clamp(min=0) @ w[f"{name}.ffn.down.weight"].T
    hidden = torch.cat((x[:end], y))
    return normed(hidden, w, "ln_out") @ w["head.weight"].T


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"n_layer": 3, "n_head": 4}], ids=str)
def test_logits_are_those_of_the_equations(options: dict[str, Any]) -> None:
    model, tokens = made(**options), rows()
    logits, _ = model(tokens)
    for row, wanted in enumerate(tokens.tolist()):
        torch.testing.assert_close(logits[row], expected(model, wanted), rtol=1e-8, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 9, 10, 12, 13), (5, 14), (*range(1, 19),)])
def test_rows_with_separators_anywhere_can_be_read_in_parts(cuts: tuple[int, ...]) -> None:
    model, tokens = made(n_layer=2), rows()
    whole, _ = model(tokens)
    state, parts = model.init_state(len(tokens)), []
    for first, end in zip((0, *cuts), (*cuts, 19), strict=True):
        part, state = model(tokens[:, first:end], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert state["written"].tolist() == [19 - min(place, 19) for place in PLACES]
    sizes = {name: leaf.shape[1] for name, leaf in named_tensors(state) if "decoder" in name}
    assert set(sizes.values()) == {19}, "room for the longest target, and no more"


def test_positions_are_sines_of_falling_speed() -> None:
    torch.testing.assert_close(sinusoids(torch.arange(40), 16), positions(40, 16))


@torch.no_grad()
def test_the_encoder_sees_the_source_as_a_whole_and_the_decoder_no_later_token() -> None:
    model, tokens = made(), rows()
    before = model(tokens)[0]
    for place, of_source in ((8, True), (14, False)):
        changed = tokens.clone()
        changed[2, place] += 1
        differs = (model(changed)[0] != before).any(-1)[2].tolist()
        first = 9 if of_source else place
        assert differs == [at == place or at >= first for at in range(19)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"n_head": 3}, "model.n_embd=64 must be even and a multiple of model.n_head=3"),
        ({"separator": -1}, "model.separator=-1 is no token"),
        ({"attention": "fast"}, "model.attention='fast' is not one of auto"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        build(spec_of("encdec", **options))
