"""What the recurrences of a model do to their state with every token: decays and eigenvalues.

Both are read from what the WKV operators are given, so they are those of RWKV-4 to 7 and of what is
computed by the same operators: Mamba-2, Gated DeltaNet, and linear attention, which never forgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.contract import Model
from models.ops.intercept import intercept

PLACE = {"wkv4": 0, "wkv5": 1, "wkv6": 1, "wkv7": 1}
"""Where among the operands of an operator its log-decay is."""
MATRICES = 256
"""Transitions of a layer whose eigenvalues are computed, evenly spread over tokens and heads."""
TOKENS = 1 << 12
"""Tokens that are read for it."""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def spectra(model: Model, windows: Tensor) -> list[dict[str, Any]]:
    """For every layer what its recurrence does, reading windows `[W, T]`; empty without one.

    `half_life`: of the state's channels, the least, the quartiles and the greatest number of tokens
    after which half is left, by the mean of the log-decay over the tokens; None: never.
    `eigenvalues`: of the transition of WKV-7 per token and head, see `eigenvalues`.
    """
    count = max(1, TOKENS // windows.shape[1])
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    with operands(model) as calls:
        model(windows[:count].to(device))
    found: list[dict[str, Any]] = []
    for name, given in calls:
        layer: dict[str, Any] = {}
        if name:
            layer["half_life"] = [_finite(value) for value in half_lives(given[PLACE[name]])]
        if name == "wkv7":
            w, a, b = given[1], given[4], given[5]
            layer["eigenvalues"] = eigenvalues(w, a, b)
        found.append(layer)
    return found


def half_lives(w: Tensor) -> list[float]:
    """Tokens after which half of a channel is left, ln 2 / -w: its quantiles over the channels.

    w is the log-decay, of all tokens `[B, T, H, N]` or constant `[C]` or `[H, N]`.
    """
    mean = w.double().mean((0, 1)) if w.ndim == 4 else w.double()
    lives = (math.log(2) / -mean).abs().flatten().sort().values.cpu()  # abs: w = 0 is -0 there
    places = [round(share * (len(lives) - 1)) for share in QUANTILES]  # infinities cannot be mixed
    return lives[places].tolist()


def transitions(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The matrices by which WKV-7 multiplies its state, S_t = S_{t-1} A_t + v_t k_t^T.

    A = diag(e^w) + a b^T, of w, a and b `[.., N]` to `[.., N, N]`, fp64.
    """
    w, a, b = w.double(), a.double(), b.double()
    return torch.diag_embed(w.exp()) + a[..., :, None] * b[..., None, :]


def eigenvalues(w: Tensor, a: Tensor, b: Tensor) -> dict[str, float]:
    """Those of A_t, one token and head at a time, of w, a and b `[B, T, H, N]`.

    `least` and `most`: the smallest real part and the largest modulus among all. `median_least`:
    the median over the transitions of the smallest. `negative`: the share of transitions with one
    below 0, which turn a sign round and can so count modulo 2. `growing`: with a modulus above 1.
    """
    flat = [part.flatten(0, 2) for part in (w, a, b)]  # [B T H, N]
    total = len(flat[0])
    chosen = torch.linspace(0, total - 1, min(total, MATRICES)).round().long()
    values = torch.linalg.eigvals(transitions(*(part[chosen.to(part.device)] for part in flat)))
    least, most = values.real.amin(-1), values.abs().amax(-1)
    return {
        "least": float(least.min()),
        "median_least": float(least.median()),
        "most": float(most.max()),
        "negative": float((least < -ROUNDING).double().mean()),
        "growing": float((most > 1 + ROUNDING).double().mean()),
    }


ROUNDING = 1e-6
"""What operands in fp32 allow: an eigenvalue no farther beyond 0 or 1 is not counted as such."""


@contextmanager
def operands(model: Model) -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """While it is open: for every layer of the next pass, the name of its recurrence's operator and
    its operands; an empty name where there is none."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def enters(module: Any, inputs: Any) -> None:
        calls.append(("", ()))

    def handler(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if calls and function.__name__ in PLACE:
            calls[-1] = (function.__name__, arguments)
        return function(*arguments)

    blocks: Any = model.blocks  # type: ignore[attr-defined]
    hooks = [block.register_forward_pre_hook(enters) for block in blocks]
    try:
        with intercept(handler):
            yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
