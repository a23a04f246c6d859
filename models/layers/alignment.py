"""Where in a source a decoder reads: the classical alignment scores, and the windows around them.

    e_j = score(q, h_j)             q the decoder's state [B, C], h the encoder's [B, S, C]
    a = softmax(e) over j < S, and over |j - p| <= local_window = D where that is local
    context = sum_j a_j h_j, or the h_j of one j ~ a

| score | e_j | source |
|---|---|---|
| additive | v . tanh(W q + U h_j) | Bahdanau, Cho and Bengio 2014, arXiv 1409.0473, A.1.2 |
| dot | q . h_j | Luong, Pham and Manning 2015, arXiv 1508.04025, eq. 8 |
| general | q . W h_j | the same |
| location | (W q)_j, which looks at no h | the same, eq. 9 |
| scaled_dot | q . h_j / sqrt(C) | Vaswani et al. 2017, arXiv 1706.03762, eq. 1 |
| content | softplus(w . q + b) cos(W q, h_j) | Graves et al. 2014, arXiv 1410.5401, eq. 5 |

With `local_m` the window stands at p = t, the number of target tokens before; with `local_p` at
p = S sigmoid(v . tanh(W q)), and a is multiplied by exp(-(j - p)^2 / (2 sigma^2)), sigma = D / 2
(Luong et al. 2015, section 3.2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.trunk import linear_flops

SCORES = ("additive", "content", "location", "general", "dot", "scaled_dot")
REACHES = ("global", "local_m", "local_p")


class Score(nn.Module):
    """q . h_j, and the base of the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def keys(self, values: Tensor) -> Tensor:
        """What of the encoder's `[B, S, C]` a score needs, once for all steps: `[B, S, C]`."""
        return values

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """q `[B, C]` and keys `[B, S, C]` to e `[B, S]`."""
        return torch.einsum("bc,bsc->bs", query, keys.to(query.dtype))

    def key_flops(self, rows: int) -> int:
        """Operations of `keys` of so many tokens."""
        return 0

    def query_flops(self, rows: int) -> int:
        """Operations of so many steps, whatever the length of the source."""
        return 0

    def pair_flops(self) -> int:
        """Operations of a step and a token of the source."""
        return 2 * self.width


class ScaledDot(Score):
    """q . h_j / sqrt(C)."""

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        return super().forward(query / math.sqrt(self.width), keys)


class General(Score):
    """q . W h_j."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.key = nn.Linear(width, width, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        return self.key(values)

    def key_flops(self, rows: int) -> int:
        return linear_flops(self.key, rows)


class Additive(General):
    """v . tanh(W q + U h_j)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.query = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.v(torch.tanh(self.query(query)[:, None] + keys))[..., 0]

    def query_flops(self, rows: int) -> int:
        return linear_flops(self.query, rows)


class Content(Score):
    """beta cos(W q, h_j)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.query = nn.Linear(width, width, bias=False)
        self.beta = nn.Linear(width, 1)

    def keys(self, values: Tensor) -> Tensor:
        return F.normalize(values, dim=-1)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        cosines = super().forward(F.normalize(self.query(query), dim=-1), keys)
        return F.softplus(self.beta(query)) * cosines

    def query_flops(self, rows: int) -> int:
        return linear_flops(self.query, rows) + linear_flops(self.beta, rows)


class Location(Score):
    """(W q)_j: a place for each of the first `positions` tokens."""

    def __init__(self, width: int, positions: int) -> None:
        super().__init__(width)
        self.query = nn.Linear(width, positions, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.query(query)[:, : keys.shape[1]]

    def query_flops(self, rows: int) -> int:
        return linear_flops(self.query, rows)

    def pair_flops(self) -> int:
        return 0


def build_score(name: str, width: int, positions: int | None) -> Score:
    """The score of this name, one of `SCORES`."""
    if name == "location":
        assert positions is not None
        return Location(width, positions)
    kinds = {
        "additive": Additive, "content": Content, "general": General, "dot": Score,
        "scaled_dot": ScaledDot,
    }  # fmt: skip
    return kinds[name](width)


class Alignment(nn.Module):
    """The weights a of a step, from a score and a reach."""

    def __init__(
        self, score: str, width: int, reach: str, window: int, positions: int | None
    ) -> None:
        super().__init__()
        self.score = build_score(score, width, positions)
        self.reach, self.window = reach, window
        if reach == "local_p":
            self.place = nn.Linear(width, width, bias=False)
            self.v = nn.Linear(width, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, lengths: Tensor, step: Tensor) -> Tensor:
        """The log of a `[B, S]`, fp32 or wider, which is -inf where nothing is read.

        query `[B, C]`; keys `[B, S, C]`, of which a row has the first of `lengths` `[B]`; step
        `[B]`: target tokens before. A row that may read nothing, as beyond a source with
        `local_m`, has -inf everywhere.
        """
        scores = self.score(query, keys)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        places = torch.arange(keys.shape[1], device=keys.device)
        unseen = places >= lengths[:, None]
        log_bell: Tensor | None = None
        if self.reach != "global":
            if self.reach == "local_m":
                center = step.to(scores.dtype)[:, None]
            else:
                center = lengths[:, None] * torch.sigmoid(self.v(torch.tanh(self.place(query))))
                center = center.to(scores.dtype)
                log_bell = -2 * ((places - center) / self.window).square()  # sigma is D / 2
            unseen = unseen | ((places - center).abs() > self.window)
        nothing = unseen.all(dim=1, keepdim=True)
        finite = torch.where(unseen & ~nothing, -math.inf, scores)  # no NaN, nor in its gradient
        logs = finite.log_softmax(-1)
        if log_bell is not None:
            logs = logs + log_bell
        return logs.masked_fill(unseen, -math.inf)

    def flops(self, steps: int, pairs: int) -> int:
        """Operations of so many steps, and pairs of one and a token of the source; without keys."""
        total = self.score.query_flops(steps) + pairs * self.score.pair_flops()
        if self.reach == "local_p":
            total += linear_flops(self.place, steps) + linear_flops(self.v, steps)
        return total


def choose(logs: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One place of each row of the log weights `[B, S]`: drawn from them, or the likeliest.

    Returns its one-hot weights `[B, S]`, zeros where nothing may be read; the log probability that
    it is drawn with, and the entropy of the distribution, `[B]` each, with gradients.
    """
    nothing = logs.isneginf().all(dim=1, keepdim=True)
    logs = torch.where(nothing, torch.zeros_like(logs), logs)
    log_p = logs - logs.logsumexp(-1, keepdim=True)  # a bell leaves sums below 1
    p = log_p.exp()
    with torch.no_grad():
        place = torch.multinomial(p, 1) if sample else log_p.argmax(-1, keepdim=True)
        hot = torch.zeros_like(p).scatter_(1, place, 1.0).masked_fill(nothing, 0.0)
    chosen = log_p.gather(1, place)[:, 0]
    entropy = -(p * log_p.masked_fill(log_p.isneginf(), 0.0)).sum(-1)
    nothing = nothing[:, 0]
    return hot, chosen.masked_fill(nothing, 0.0), entropy.masked_fill(nothing, 0.0)
