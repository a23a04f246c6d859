"""The LSTM encoder-decoder: beside its equations written out, its state, REINFORCE, refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from models import seq2seq
from models.contract import named_tensors
from models.layers.alignment import SCORES
from models.registry import build
from models.seq2seq import ATTENTIONS
from tests.registered_models import separated, shaken, some_tokens, spec_of

MARK = 7
PLACES = (0, 3, 9, 12, 19)  # of the separator in each row; the last row has none


def made(**options: Any) -> Any:
    if options.get("attention") == "location":
        options["n_positions"] = 40
    return shaken("seq2seq", separator=MARK, **options).double().eval()


def rows(length: int = 19) -> Tensor:
    tokens = some_tokens(len(PLACES), length)
    tokens[tokens == MARK] = 1
    for row, place in enumerate(PLACES):
        if place < length:
            tokens[row, place] = MARK
    return tokens


def lstm(x: list[Tensor], w: dict[str, Tensor], name: str) -> list[Tensor]:
    """Hochreiter and Schmidhuber's, gates in torch's order, from zeros."""
    size = w[f"{name}.weight_hh_l0"].shape[1]
    h, c, out = torch.zeros(size).double(), torch.zeros(size).double(), []
    for token in x:
        gates = w[f"{name}.weight_ih_l0"] @ token + w[f"{name}.bias_ih_l0"]
        gates = gates + w[f"{name}.weight_hh_l0"] @ h + w[f"{name}.bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return out


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    centered = x - x.mean()
    return (
        centered / (centered.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"]
        + w[f"{name}.bias"]
    )


def weights_of(model: Any, s: Tensor, h: list[Tensor], step: int, w: dict[str, Tensor]) -> Tensor:
    """The alignment of one step, `[S]`."""
    config, a = model.config, "decoder.alignment."
    if config.attention == "additive":
        query = w[f"{a}score.query.weight"] @ s
        scores = [
            w[f"{a}score.v.weight"][0] @ (query + w[f"{a}score.key.weight"] @ x).tanh() for x in h
        ]
    elif config.attention == "general":
        scores = [s @ w[f"{a}score.key.weight"] @ x for x in h]
    elif config.attention == "location":
        scores = list((w[f"{a}score.query.weight"] @ s)[: len(h)])
    elif config.attention == "content":
        k = w[f"{a}score.query.weight"] @ s
        beta = (1 + (w[f"{a}score.beta.weight"][0] @ s + w[f"{a}score.beta.bias"][0]).exp()).log()
        scores = [beta * (k @ x) / (k.norm() * x.norm()) for x in h]
    else:
        scale = math.sqrt(len(s)) if config.attention == "scaled_dot" else 1.0
        scores = [s @ x / scale for x in h]
    center = torch.tensor(float(step)).double()
    if config.reach == "local_p":
        inner = w[f"{a}v.weight"][0] @ (w[f"{a}place.weight"] @ s).tanh()
        center = len(h) * inner.sigmoid()
    d = config.local_window
    seen = [config.reach == "global" or abs(j - float(center)) <= d for j in range(len(h))]
    raw = torch.stack([x.exp() if see else x * 0 for x, see in zip(scores, seen, strict=True)])
    weights = raw / raw.sum() if any(seen) else raw
    if config.reach == "local_p":
        sigma = d / 2
        weights = weights * (-(torch.arange(len(h)) - center).square() / (2 * sigma**2)).exp()
    if config.selection == "hard" and any(seen):
        weights = torch.eye(len(h)).double()[weights.argmax()]
    return weights


@torch.no_grad()
def expected(model: Any, tokens: list[int], aligned: list[Tensor] | None = None) -> Tensor:
    """The logits of one row, `[T, V]`, token by token; weights of steps are added to `aligned`."""
    w = dict(model.named_parameters())
    layers = model.config.n_layer
    x = [w["emb.weight"][token] for token in tokens]
    end = tokens.index(MARK) if MARK in tokens else len(tokens)
    hidden, h = x[:end], x[:end]
    for layer in range(layers):
        onward = lstm(h, w, f"blocks.{layer}.onward")
        back = lstm(h[::-1], w, f"blocks.{layer}.backward_")[::-1]
        y = [torch.cat(both) for both in zip(onward, back, strict=True)]
        h = y if layer == 0 else [a + b for a, b in zip(h, y, strict=True)]
    width = len(x[0])
    ends = (
        torch.cat((h[-1][: width // 2], h[0][width // 2 :])) if h else torch.zeros(width).double()
    )
    begin = (w["decoder.bridge.weight"] @ ends + w["decoder.bridge.bias"]).view(2, layers, width)
    s, c, fed = list(begin[0].tanh()), list(begin[1]), torch.zeros(width).double()
    for step, token in enumerate(x[end:]):
        z = torch.cat((token, fed))
        for layer in range(layers):
            read = torch.cat((z, s[layer]))
            gates = w[f"decoder.cells.{layer}.weight"] @ read + w[f"decoder.cells.{layer}.bias"]
            i, f, g, o = gates.chunk(4)
            c[layer] = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh()
            s[layer] = o.sigmoid() * c[layer].tanh()
            z = s[layer] if layer == 0 else z + s[layer]
        if model.config.attention == "none":
            fed = (w["decoder.combine.weight"] @ z).tanh()
        else:
            context = torch.zeros(width).double()
            if h:
                weights = weights_of(model, z, h, step, w)
                for weight, value in zip(weights, h, strict=True):
                    context = context + weight * value
                if aligned is not None:
                    aligned.append(weights)
            fed = (w["decoder.combine.weight"] @ torch.cat((context, z))).tanh()
        inner = w["decoder.up.weight"] @ norm(fed, w, "decoder.ln")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        hidden = [*hidden, fed + w["decoder.down.weight"] @ inner]
    return torch.stack([w["head.weight"] @ norm(one, w, "ln_out") for one in hidden])


CASES = [
    *({"attention": attention} for attention in ATTENTIONS),
    *({"attention": score, "reach": "local_m", "local_window": 2} for score in SCORES),
    *({"attention": score, "reach": "local_p", "local_window": 3} for score in SCORES),
    {"selection": "hard"},
    {"selection": "hard", "reach": "local_p", "attention": "additive"},
    {"n_layer": 3, "attention": "dot"},
]


@torch.no_grad()
@pytest.mark.parametrize("options", CASES, ids=lambda options: " ".join(map(str, options.values())))
def test_logits_are_those_of_the_equations(options: dict[str, Any]) -> None:
    model, tokens = made(**options), rows()
    logits, none = model(tokens)
    assert none is None
    for row, wanted in enumerate(tokens.tolist()):
        torch.testing.assert_close(logits[row], expected(model, wanted), rtol=1e-8, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("options", [CASES[1], {"selection": "hard"}], ids=str)
def test_the_alignment_is_that_of_the_equations(options: dict[str, Any]) -> None:
    model, tokens = made(**options), rows()
    found = model.aligned(tokens)
    assert found.shape == (5, 19, 12), "of a row without a source, and of one of twelve"
    for row, place in enumerate(PLACES):
        wanted: list[Tensor] = []
        expected(model, tokens[row].tolist(), wanted)
        steps, source = (19 - place, place) if wanted else (0, 0)
        assert not found[row, steps:].any()
        assert not found[row, :, source:].any()
        if wanted:
            ones = torch.ones(steps).double()
            torch.testing.assert_close(found[row].sum(-1)[:steps], ones)
            mine = found[row, :steps, :source]
            torch.testing.assert_close(mine, torch.stack(wanted), rtol=1e-8, atol=1e-9)
    assert not model.decoder.alignment._forward_hooks


@torch.no_grad()
def test_an_alignment_needs_attention_and_a_target() -> None:
    assert made().aligned(torch.tensor([[1, 2, 3]])).shape == (1, 0, 0)
    with pytest.raises(UserError, match="=none has no alignment to look at"):
        made(attention="none").aligned(rows())


@torch.no_grad()
@pytest.mark.parametrize("options", [CASES[0], CASES[1], CASES[-2]], ids=str)
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 9, 10, 12, 13), (5, 14), (*range(1, 19),)])
def test_rows_with_separators_anywhere_can_be_read_in_parts(
    options: dict[str, Any], cuts: tuple[int, ...]
) -> None:
    model, tokens = made(**options), rows()
    whole, _ = model(tokens)
    state, parts = model.init_state(len(tokens)), []
    for first, end in zip((0, *cuts), (*cuts, 19), strict=True):
        part, state = model(tokens[:, first:end], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert state["length"].tolist() == [min(place, 19) for place in PLACES]
    assert state["written"].tolist() == [19 - min(place, 19) for place in PLACES]


@torch.no_grad()
def test_the_target_depends_on_the_source_and_the_source_on_nothing_later() -> None:
    model, tokens = made(), rows()
    before = model(tokens)[0]
    changed = tokens.clone()
    changed[2, 4] += 1  # of a source of nine
    after = model(changed)[0]
    differs = (after != before).any(-1)
    assert differs[2].tolist() == [place == 4 or place >= 9 for place in range(19)]
    assert not differs[[0, 1, 3, 4]].any()


def test_without_attention_nothing_is_kept_of_a_source_but_one_vector() -> None:
    model = shaken("seq2seq", separator=MARK, attention="none").eval()
    with torch.no_grad():
        state = model(rows(), model.init_state(5))[1]
    names = [name for name, _ in named_tensors(state)]
    assert names == ["source", "length", "written", "decoder.h", "decoder.c", "decoder.fed"]


def test_flops_are_those_of_a_separator_in_the_middle() -> None:
    for options in ({}, {"attention": "additive"}, {"attention": "none"}, {"reach": "local_p"}):
        model = shaken("seq2seq", separator=MARK, **options)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(separated(model, some_tokens(2, 64)))
        assert model.flops(2, 64) == pytest.approx(counter.get_total_flops(), rel=0.01)


# ---- hard selection ---------------------------------------------------------------------------


def small() -> tuple[Any, Tensor, Tensor]:
    """A model of width 8, a row with a source and a target of three tokens, and what is asked."""
    torch.manual_seed(0)
    options = {"n_embd": 8, "n_ffn": 8, "selection": "hard", "entropy_weight": 0.0}
    model: Any = build(spec_of("seq2seq", vocab=9, separator=8, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.7)
    return (
        model.double().train(),
        torch.tensor([[1, 2, 3, 8, 5, 6]]),
        torch.tensor([[-1] * 3 + [4, 0, 2]]),
    )


def gradients(model: Any) -> Tensor:
    """Of all but the baseline, which is learned by another objective."""
    named = [each for each in model.named_parameters() if "baseline" not in each[0]]
    return torch.cat(
        [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for _, p in named]
    )


def exact(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, float]:
    """The gradient of the expected loss, by all 27 ways to choose; and that loss."""
    model, tokens, targets = small()
    total = torch.zeros(()).double()
    for path in itertools.product(range(3), repeat=3):
        places: Iterator[int] = iter(path)
        logs: list[Tensor] = []

        def forced(log: Tensor, sample: bool, places: Any = places, logs: Any = logs) -> Any:
            place = next(places)
            log_p = (log - log.logsumexp(-1, keepdim=True))[:, place]
            logs.append(log_p)
            hot = torch.zeros_like(log)
            hot[:, place] = 1
            return hot, log_p, log_p * 0

        monkeypatch.setattr(seq2seq, "choose", forced)
        hidden, _ = model.hidden(tokens)
        likelihoods = model.head(hidden).log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])
        loss = -(likelihoods[..., 0] * (targets >= 0)).sum() / 3
        total = total + torch.stack(logs).sum().exp() * loss
    monkeypatch.undo()
    total.backward()
    return gradients(model), total.item()


def test_the_mean_gradient_of_reinforce_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, loss = exact(monkeypatch)
    model, tokens, targets = small()
    torch.manual_seed(1)
    estimates, plain, losses = [], [], []
    for _ in range(40):
        many = tokens.expand(400, -1), targets.expand(400, -1)
        model.zero_grad()
        objective, reported, _ = model.objective(*many, total=1200)
        objective.backward()
        estimates.append(gradients(model))
        losses.append(reported)
    g = torch.Generator().manual_seed(2)
    directions = torch.randn(6, len(wanted), generator=g, dtype=torch.float64)
    directions = torch.cat((directions, wanted[None]))
    along = torch.stack(estimates) @ directions.T  # [40, 7]
    error = along.std(0) / math.sqrt(len(along))
    assert ((along.mean(0) - directions @ wanted).abs() <= 4 * error).all()
    assert (error <= 0.1 * directions.norm(dim=1) * wanted.norm()).all(), "an interval that tells"
    reports = torch.stack(losses)
    assert abs(reports.mean().item() - loss) <= 4 * reports.std().item() / math.sqrt(40)
    for _ in range(10):  # the gradient of the sampled loss alone is another one
        model.zero_grad()
        hidden, _ = model.hidden(many[0])
        logs = model.head(hidden).log_softmax(-1).gather(2, many[1].clamp(min=0)[..., None])
        (-(logs[..., 0] * (many[1] >= 0)).sum() / 1200).backward()
        plain.append(gradients(model))
    biased = torch.stack(plain).mean(0)
    assert (biased - wanted).norm() > 3 * (torch.stack(estimates).mean(0) - wanted).norm()


def test_the_baseline_learns_the_return_and_entropy_is_rewarded() -> None:
    model, tokens, targets = small()
    objectives = []
    for weight in (0.0, 10.0):
        object.__setattr__(model.config, "entropy_weight", weight)
        torch.manual_seed(3)
        model.zero_grad()
        objective, loss, _ = model.objective(tokens, targets, total=3)
        objective.backward()
        objectives.append(objective.item())
        assert model.decoder.baseline.weight.grad.any()
        assert not loss.requires_grad
    assert objectives[1] < objectives[0]


def test_hard_selection_is_drawn_in_training_alone() -> None:
    model, tokens, targets = small()
    several = {model.objective(tokens, targets, total=3)[1].item() for _ in range(12)}
    assert len(several) > 3
    model.eval()
    assert len({model.objective(tokens, targets, total=3)[1].item() for _ in range(12)}) == 1
    model.train()
    with torch.no_grad():
        assert len({model.objective(tokens, targets, total=3)[1].item() for _ in range(12)}) == 1


def test_hard_selection_takes_no_packed_documents() -> None:
    model, tokens, targets = small()
    with pytest.raises(UserError, match="selection=hard learns from whole rows"):
        model.objective(tokens, targets, starts=torch.zeros_like(tokens, dtype=torch.bool))


# ---- the rest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_it_trains_in_bfloat16(precision: str) -> None:
    model, tokens = shaken("seq2seq", separator=MARK), rows()
    wanted = model.loss(tokens, tokens)[0].item()
    if precision == "bf16-true":
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss, _ = model.loss(tokens, tokens, model.init_state(len(tokens)))
    loss.backward()
    assert loss.item() == pytest.approx(wanted, rel=0.03)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_its_state_grows_with_the_source_alone() -> None:
    model = shaken("seq2seq", separator=MARK).eval()
    tokens = rows()[:1].expand(1, -1).clone()
    tokens[0] = torch.tensor([*range(8, 17), MARK, *range(20, 29)])
    sizes = []
    with torch.no_grad():
        state = model.init_state(1)
        for token in tokens.split(1, dim=1):
            _, state = model(token, state)
            sizes.append({name: leaf.numel() for name, leaf in named_tensors(state)})
    assert [size["source"] for size in sizes] == [*range(1, 10), *[9] * 10]
    assert {size["memory.values"] for size in sizes[:9]} == {0}
    assert {size["memory.values"] for size in sizes[9:]} == {9 * 64}
    assert {size["decoder.fed"] for size in sizes} == {64}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"attention": "dott"}, "model.attention='dott' is not one of none, additive"),
        ({"selection": "soft?"}, "model.selection='soft.' is not one of soft, hard"),
        ({"reach": "local"}, "model.reach='local' is not one of global, local_m, local_p"),
        ({"n_embd": 63}, "model.n_embd=63 must be even"),
        ({"separator": 97}, "model.separator=97 is no token of a vocabulary of 97"),
        ({"local_window": 0}, "model.local_window=0 must be 1 or more"),
        ({"attention": "none", "reach": "local_m"}, "model.attention=none selects nothing"),
        ({"attention": "location"}, "needs model.n_positions="),
        ({"n_positions": 9}, "the others have none"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        build(spec_of("seq2seq", **options))


def test_a_source_beyond_the_places_of_location_is_refused() -> None:
    model = shaken("seq2seq", separator=MARK, attention="location", n_positions=8)
    model(rows()[:2])
    with pytest.raises(UserError, match=r"has 8 places \(n_positions\), and a source is 9 tok"):
        model(rows()[:3])
