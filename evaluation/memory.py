"""How many tokens back still moves the logits of a model: the memory microscope.

A window of T tokens is read. The first quarter of it is what came before; of the rest it is asked
how much a token moves what is said later, in two ways that share nothing but the forward pass:

* by the exact gradient of the last token's logits with respect to the embedding of every token;
* by a perturbation: one token is replaced by another, and the logits of all later ones compared.

Both are the root mean square of what a logit moves by, nats, when a token is replaced by another:
the gradient is scaled by the distance between the embeddings of the two, as if the model were
linear. A shift of all logits alike, which changes no probability, does not count.

Of every layer alone the gradient of what it adds to the residual stream is taken with respect to
its input. For RWKV-7 that is without the first layer's value, which comes from outside the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from data.encoding import READ_ONLY, Marked, encoded
from data.text import TextTokenizer
from evaluation.shared_prefixes import LOGITS
from evaluation.spectrum import spectra
from models.contract import Model, separator_of

WINDOWS = 16
"""How many are read."""
DRAWS = 4
"""Directions of logits, and replacements of a token, for each window."""
SHARE = 0.01
"""Influence above this share of the largest counts as moving the logits."""
FEWEST = 8
"""Tokens of the smallest window."""


def windows_of(
    documents: Iterable[Marked], tokenizer: TextTokenizer, length: int, count: int = WINDOWS
) -> Tensor:
    """Windows `[W, T]`, W <= `count`, of the beginnings of documents of `length` tokens or more.

    Raises `UserError` if none is so long.
    """
    found: list[Tensor] = []
    for document in documents:
        ids = [token & ~READ_ONLY for part, _ in encoded(document, tokenizer) for token in part]
        found += torch.tensor(ids[: len(ids) // length * length]).view(-1, length)[:count]
        if len(found) >= count:
            break
    if not found:
        raise UserError(f"memory={length}: no document has so many tokens; ask for fewer")
    return torch.stack(found[:count])


@dataclass(frozen=True)
class Reach:
    """How far back an influence goes, in tokens, the current one included."""

    half: float
    """Within so many lies half of the influence of all: the median over the windows."""
    half_low: float
    half_high: float
    """The middle half of the windows."""
    tokens: float
    """The farthest that has more than `SHARE` of the largest influence: median of the windows."""
    tokens_low: float
    tokens_high: float
    farthest: int
    """The farthest with any influence at all, in any window; 0: none has."""
    followed: int
    """Tokens that were looked at: a reach of as many may be longer."""


def microscope(model: Model, windows: Tensor, seed: int = 0) -> dict[str, Any]:
    """What `evaluation.json` has as `memory`, for windows `[W, T]` of token ids.

    The model is in fp32 and in eval mode. Raises `UserError` for windows that are too short, and
    for a model that reads a source as a whole, of which no part lies further back than another.
    """
    count, length = windows.shape
    check_window(length)
    if separator_of(model) is not None:
        raise UserError(
            f"memory={length}: {model.title} reads a source as a whole, at any distance"
        )
    before = length // 4
    gradient, perturbation, by_layer = [], [], []
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, LOGITS // (length * model.config.vocab_size * (1 + DRAWS)))
    for first in range(0, count, rows):
        batch = windows[first : first + rows].to(_device(model))
        others = replacements(batch, before, windows, model.config.vocab_size, generator)
        moved, layers = gradients(model, batch, before, generator)
        weight = model.emb.weight.detach()  # type: ignore[attr-defined]
        apart = weight[others] - weight[batch[:, before, None]]  # [B, R, C]
        gradient.append(moved * float(apart.square().mean().sqrt()))
        by_layer.append(layers)
        perturbation.append(perturbations(model, batch, before, others))
    moved, replaced = torch.cat(gradient), torch.cat(perturbation)  # [W, D]
    return {
        "window": length,
        "windows": count,
        "before": before,
        "rows": curve_rows(moved.mean(0), replaced.mean(0)),
        "gradient": asdict(reach(moved)),
        "perturbation": asdict(reach(replaced)),
        "layers": [
            {"layer": layer, "gradient": asdict(reach(torch.cat(parts))), **found}
            for layer, (found, *parts) in enumerate(
                zip(spectra(model, windows), *by_layer, strict=True)
            )
        ],
    }


def check_window(length: int) -> None:
    """Raise `UserError` for a window that has too few tokens to tell distances apart."""
    if length < FEWEST:
        raise UserError(f"memory={length}: windows have {FEWEST} tokens or more")


def gradients(
    model: Model, tokens: Tensor, before: int, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Root mean square over logits of the gradient's norm, by distance from the last token.

    `tokens[B, T]` to `[B, D]`, D = T - `before`, from distance 0 on; and of every layer alone the
    same. The norms are those of the gradient of the logits in `DRAWS` random directions, whose
    mean square is that of the whole Jacobian.
    """
    with torch.enable_grad(), tapped(model) as taps:
        logits = model(tokens)[0][:, -1]  # [B, V]
        ends = [(logits - logits.mean(-1, keepdim=True), taps[0])]
        ends += [((after - x)[:, -1], x) for x, after in taps[1:]]
        found = []
        for values, source in ends:
            entry = source if isinstance(source, Tensor) else source[0]
            total = entry.new_zeros(entry.shape[:2], dtype=torch.float64)  # [B, T]
            for _ in range(DRAWS):
                along = torch.randn(values.shape, generator=generator).to(values)
                (slope,) = torch.autograd.grad(
                    values, entry, along, retain_graph=True, allow_unused=True
                )
                if slope is not None:
                    total += slope.double().square().sum(-1)
            mean = (total / (DRAWS * values.shape[-1])).sqrt()
            found.append(mean.flip(1)[:, : tokens.shape[1] - before].cpu())
    return found[0], found[1:]


@torch.no_grad()
def perturbations(model: Model, tokens: Tensor, before: int, others: Tensor) -> Tensor:
    """Root mean square of what logits move by if the token at `before` is replaced, by distance.

    `tokens[B, T]` and `others[B, R]`, the replacements, to `[B, D]`.
    """
    plain = model(tokens)[0][:, before:]  # [B, D, V]
    total = torch.zeros(plain.shape[:2], dtype=torch.float64, device=tokens.device)
    for other in others.unbind(1):
        changed = tokens.clone()
        changed[:, before] = other
        moved = (model(changed)[0][:, before:] - plain).double()
        total += moved.var(-1, correction=0)  # without what is common to all logits
    return (total / others.shape[1]).sqrt().cpu()


def replacements(
    tokens: Tensor, before: int, windows: Tensor, vocabulary: int, generator: torch.Generator
) -> Tensor:
    """Other tokens `[B, DRAWS]` than those at `before`, drawn among those of all windows."""
    used = windows.unique()
    if len(used) == 1:
        used = torch.cat((used, (used + 1) % vocabulary))
    used = used.to(tokens.device)
    at = torch.searchsorted(used, tokens[:, before].contiguous())  # [B]
    by = torch.randint(1, len(used), (len(tokens), DRAWS), generator=generator).to(at)
    return used[(at[:, None] + by) % len(used)]


def reach(influence: Tensor) -> Reach:
    """How far an influence `[W, D]` goes, by distance from 0 on."""
    followed = influence.shape[1]
    largest = influence.amax(1, keepdim=True)  # [W, 1]
    counts = torch.arange(1, followed + 1)
    moves = (influence > SHARE * largest) & (largest > 0)
    farthest = (moves * counts).amax(1).double()  # [W]
    half = (influence.cumsum(1) < influence.sum(1, keepdim=True) / 2).sum(1) + 1.0
    half = torch.where(largest[:, 0] > 0, half, 0.0).double()
    quarters = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    middle, low, high = half.quantile(quarters).tolist()
    tokens, tokens_low, tokens_high = farthest.quantile(quarters).tolist()
    ever = int(((influence > 0) * counts).amax())
    return Reach(middle, low, high, tokens, tokens_low, tokens_high, ever, followed)


def curve_rows(gradient: Tensor, perturbation: Tensor) -> list[dict[str, Any]]:
    """The mean of both influences `[D]` over distances 0, 1, 2 to 3, 4 to 7 and so on."""
    ends = [0, *(2**power for power in range(len(gradient).bit_length()))]
    rows = []
    for first, after in zip(ends, [*ends[1:], len(gradient)], strict=True):
        last = min(after, len(gradient))
        if last > first:
            row: dict[str, Any] = {"from": first, "to": last - 1}
            row["gradient"] = float(gradient[first:last].mean())
            row["perturbation"] = float(perturbation[first:last].mean())
            rows.append(row)
    return rows


@contextmanager
def tapped(model: Model) -> Iterator[list[Any]]:
    """While it is open: the embedding `[B, T, C]` of the next pass, and after it, for every layer,
    its input and its output."""
    taps: list[Any] = []

    def embedded(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        taps.append(output.detach().requires_grad_())
        return taps[0]

    def passed(module: nn.Module, inputs: Any, output: Any) -> None:
        taps.append((inputs[0].x, output[0].x))

    blocks: Any = model.blocks  # type: ignore[attr-defined]
    hooks = [model.emb.register_forward_hook(embedded)]  # type: ignore[attr-defined]
    hooks += [block.register_forward_hook(passed) for block in blocks]
    try:
        yield taps
    finally:
        for hook in hooks:
            hook.remove()


def _device(model: Model) -> torch.device:
    device: torch.device = next(model.parameters()).device  # type: ignore[attr-defined]
    return device
