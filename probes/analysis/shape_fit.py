"""How a cost grows with length: non-negative fits with relative errors, and which one AICc prefers.

AICc is Akaike's criterion with the correction for few data (Hurvich and Tsai 1989),
`n ln(RSS / n) + 2k + 2k(k + 1) / (n - k - 1)`; its weights follow Burnham and Anderson (2002).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from probes.analysis.bootstrap import Array, Samples, centres, grouped, levels

LINEAR, LOGLINEAR, QUADRATIC = "a + bT", "a + bT log T", "a + bT + cT^2"
ROUNDING = 1e-9
"""Relative; what is smaller is not told from zero."""


@dataclass(frozen=True)
class Growth:
    """Akaike weights, which sum to 1, of `LINEAR`, `LOGLINEAR` and `QUADRATIC`."""

    weights: dict[str, float]

    @property
    def best(self) -> str:
        return max(self.weights, key=lambda name: self.weights[name])

    @property
    def decided(self) -> bool:
        """Whether the best outweighs the others together; on a constant cost all shapes agree."""
        return self.weights[self.best] > 0.5


def growth(samples: Samples) -> Growth | None:
    """Compare the three shapes, fitted with coefficients >= 0 to the values of all processes.

    `None` with fewer than four lengths, or eight processes in all, twice what the largest shape
    estimates: with less the correction alone decides. Processes count as independent, so
    what bends a curve in every process (a cache that overflows) counts as evidence.
    """
    lengths, groups = grouped(samples)
    counts = [len(processes) for processes in groups]
    if len(lengths) < 4 or sum(counts) < 8:
        return None
    middle = centres(samples, lengths)
    values = np.exp(np.concatenate(levels(groups)))
    targets = (values / np.repeat(middle, counts))[None]
    share = lengths / lengths.max()
    rising = share * np.log(lengths) / np.log(lengths.max())
    shapes = {
        LINEAR: [share**0, share],
        LOGLINEAR: [share**0, rising],
        QUADRATIC: [share**0, share, share**2],
    }
    scores = {}
    for name, columns in shapes.items():
        design = np.repeat(np.stack(columns, axis=1) / middle[:, None], counts, axis=0)
        fitted = nonnegative(design, targets) @ design.T
        scores[name] = aicc(float(np.square(targets - fitted).sum()), sum(counts), len(columns))
    least = min(scores.values())
    likelihoods = {name: float(np.exp((least - score) / 2)) for name, score in scores.items()}
    total = sum(likelihoods.values())
    return Growth({name: likelihood / total for name, likelihood in likelihoods.items()})


def aicc(squares: float, count: int, coefficients: int) -> float:
    """AICc of a fit that leaves `squares` of error to `count` points; lower is better."""
    variance = max(squares / count, ROUNDING**2)
    k = coefficients + 1  # the variance is estimated too
    return count * np.log(variance) + 2 * k + 2 * k * (k + 1) / (count - k - 1)


def powers(lengths: Array, values: Array) -> Array:
    """`[points, 3]` powers of T / max(T), each row divided by its value: errors are relative."""
    shares = np.stack([(lengths / lengths.max()) ** power for power in range(3)], axis=1)
    return shares / values[:, None]


def nonnegative(design: Array, targets: Array) -> Array:
    """Non-negative least squares `[rows, columns]` of every row of `targets` `[rows, points]`.

    Exact: the optimum is the ordinary solution on the columns it uses, so the best of the
    solutions without a negative coefficient, over all sets of columns, is it.
    """
    columns = design.shape[1]
    best = np.zeros((len(targets), columns))
    least = np.square(targets).sum(axis=1)
    for count in range(1, columns + 1):
        for chosen in combinations(range(columns), count):
            part = design[:, chosen]
            solution = targets @ np.linalg.pinv(part).T
            error = np.square(targets - solution @ part.T).sum(axis=1)
            better = (solution >= 0).all(axis=1) & (error < least)
            least[better] = error[better]
            best[better] = 0
            best[np.ix_(better, chosen)] = solution[better]
    return best
