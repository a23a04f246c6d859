"""Fits of loss against compute, or against parameters and tokens, with bootstrap intervals.

Four laws compete, in the notation of Hoffmann et al. (2022): L is the validation loss in nats per
token, C the training compute in operations, N the parameters and D the training tokens.

    A / C^α      E + A / C^α      A / N^α + B / D^β      E + A / N^α + B / D^β

E, A and B are not negative. Errors count relative to the loss. For given exponents the rest is a
non-negative least-squares problem, which is solved exactly; exponents are searched on a grid,
finer and finer about the best. AICc chooses among the laws that the number of points allows.

Intervals are a parametric bootstrap: relative errors are normal, their variance is drawn from what
the residuals leave (RSS / chi-squared of n - k), and every draw is fitted afresh. They cover the
luck of single trainings, not a law of the wrong form: outside the measured compute they are an
extrapolation of the law that was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from probes.analysis.bootstrap import Array
from probes.analysis.shape_fit import aicc

POWER, FLOOR = "A / C^α", "E + A / C^α"
GRID, GRID_FLOOR = "A / N^α + B / D^β", "E + A / N^α + B / D^β"
DRAWS = 1000
STEEPEST, FLATTEST = 2.0, 0.02  # exponents that are searched
APART = 0.9  # correlation of log N and log D beyond which their effects are not told apart
ROUNDING = 1e-13  # of sums of squares of relative losses


@dataclass(frozen=True)
class Trial:
    """One finished training."""

    name: str
    size: str
    parameters: float
    tokens: float
    flops: float
    """FLOPs of the whole training: forward and backward, causal convention."""
    loss: float
    """Validation loss, nats per token."""


@dataclass(frozen=True)
class Coefficients:
    """`[draws]` each: `floor + sum of scale_i / (x_i / unit_i) ^ exponent_i`."""

    floor: Array
    scales: Array
    """`[draws, terms]`, the loss each term adds at its unit."""
    exponents: Array
    """`[draws, terms]`."""

    def loss(self, ratios: Array) -> Array:
        """Losses `[draws, ...]` at `ratios` `[terms, ...]`, variables in their units."""
        ones = (slice(None),) + (None,) * (ratios.ndim - 1)
        total = self.floor[ones] + np.zeros(ratios.shape[1:])
        for term, ratio in enumerate(ratios):
            total = total + self.scales[:, term][ones] * ratio ** -self.exponents[:, term][ones]
        return total


@dataclass(frozen=True)
class Law:
    """One law fitted to the trainings of one family."""

    form: str
    units: Array
    """`[terms]`: geometric means of C, or of N and D, over the trainings."""
    best: Coefficients
    """The law of the trainings themselves, a single draw."""
    drawn: Coefficients
    weights: dict[str, float]
    """Akaike weights of all laws that were tried; they sum to 1."""
    scatter: float
    """Standard deviation of the relative residuals."""

    @property
    def by_compute(self) -> bool:
        return self.form in (POWER, FLOOR)


def variables(form: str, trials: Sequence[Trial]) -> Array:
    """`[terms, trials]`: what the terms of a law depend on."""
    if form in (POWER, FLOOR):
        return np.array([[trial.flops for trial in trials]])
    return np.array([[getattr(trial, x) for trial in trials] for x in ("parameters", "tokens")])


def coefficients_of(form: str) -> int:
    """How many numbers a law has: scales, exponents and the floor."""
    return {POWER: 2, FLOOR: 3, GRID: 4, GRID_FLOOR: 5}[form]


def allowed(trials: Sequence[Trial]) -> list[str]:
    """Laws that the points can distinguish; empty where there are too few.

    AICc needs two points more than a law has numbers and its variance. A term needs three values of
    its variable, or its exponent is undetermined; and where tokens grow in proportion to
    parameters, their two effects are confounded.
    """
    forms = []
    for form in (POWER, FLOOR, GRID, GRID_FLOOR):
        enough = len(trials) >= coefficients_of(form) + 3
        logs = np.log(variables(form, trials))
        varied = enough and all(len(np.unique(row)) >= 3 for row in logs)
        if varied and (len(logs) == 1 or abs(np.corrcoef(logs)[0, 1]) < APART):
            forms.append(form)
    return forms


def fit(trials: Sequence[Trial], draws: int = DRAWS, seed: int = 0) -> Law | None:
    """The law AICc prefers, with its draws; None where the points allow no law."""
    losses = np.array([trial.loss for trial in trials])
    scores, fits = {}, {}
    for form in allowed(trials):
        values = variables(form, trials)
        units = np.exp(np.log(values).mean(axis=1))
        best = _refined(values / units[:, None], losses, form)
        errors = best.loss(values / units[:, None])[0] / losses - 1
        squares = float(errors @ errors)
        scores[form] = aicc(squares, len(trials), coefficients_of(form))
        fits[form] = (values / units[:, None], units, best, squares)
    if not fits:
        return None
    form = min(scores, key=lambda name: scores[name])
    ratios, units, best, squares = fits[form]
    freedom = len(trials) - coefficients_of(form)
    rng = np.random.default_rng(seed)
    size = np.sqrt(squares / rng.chisquare(freedom, size=draws))
    noise = size[:, None] * rng.standard_normal((draws, len(trials)))
    again = best.loss(ratios) * np.exp(noise)
    drawn = _solve(ratios, losses, again / losses, form, _grids(len(ratios)))
    likelihoods = {name: np.exp((scores[form] - score) / 2) for name, score in scores.items()}
    total = sum(likelihoods.values())
    weights = {name: float(value / total) for name, value in likelihoods.items()}
    return Law(form, units, best, drawn, weights, float(np.sqrt(squares / freedom)))


def _grids(terms: int) -> list[Array]:
    count = 200 if terms == 1 else 40
    return [np.geomspace(FLATTEST, STEEPEST, count)] * terms


def _refined(ratios: Array, losses: Array, form: str) -> Coefficients:
    """The best fit to the losses themselves, its exponents to six digits."""
    grids, targets = _grids(len(ratios)), np.ones((1, len(losses)))
    coefficients = _solve(ratios, losses, targets, form, grids)
    width = np.log(grids[0][1] / grids[0][0])
    while width > 1e-6:
        steps = np.linspace(-width, width, 9)
        grids = [
            np.clip(exponent * np.exp(steps), FLATTEST, STEEPEST)
            for exponent in coefficients.exponents[0]
        ]
        coefficients = _solve(ratios, losses, targets, form, grids)
        width /= 4
    return coefficients


def _solve(
    ratios: Array, losses: Array, targets: Array, form: str, grids: Sequence[Array]
) -> Coefficients:
    """The best fit to every row of `targets` `[draws, trials]`, which are in units of `losses`.

    With P the projection on some columns of the design, a target's squared error is t't - t'Pt;
    the non-negative optimum is the best of the projections without a negative coefficient.
    """
    exponents = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(ratios))
    columns = [ratio ** -exponents[:, [term]] for term, ratio in enumerate(ratios)]
    if form in (FLOOR, GRID_FLOOR):
        columns.insert(0, np.ones_like(columns[0]))
    design = np.stack(columns, axis=-1) / losses[None, :, None]
    draws, count = targets.shape
    squares = (targets**2).sum(axis=1)
    outer = (targets[:, :, None] * targets[:, None, :]).reshape(draws, -1)
    least = np.full(draws, np.inf)
    place = np.zeros(draws, dtype=np.int64)
    scales = np.zeros((draws, len(columns)))
    # Larger sets first: of equal errors the fuller law is kept.
    for chosen in [
        list(subset)
        for terms in range(len(columns), 0, -1)
        for subset in combinations(range(len(columns)), terms)
    ]:
        part = design[:, :, chosen]
        inverse = np.linalg.pinv(part)
        projection = (part @ inverse).reshape(len(design), -1)
        error = squares[:, None] - outer @ projection.T
        solved = targets @ inverse.reshape(-1, count).T
        positive = (solved.reshape(draws, len(design), len(chosen)) >= 0).all(axis=-1)
        error = np.where(positive, np.maximum(error, ROUNDING), np.inf)
        at = error.argmin(axis=1)
        lowest = error[np.arange(draws), at]
        better = lowest < least
        least[better], place[better] = lowest[better], at[better]
        picked = solved.reshape(draws, len(design), len(chosen))[np.arange(draws), at]
        scales[better] = 0
        scales[np.ix_(better, chosen)] = picked[better]
    floor = scales[:, 0] if len(columns) > len(ratios) else np.zeros(draws)
    return Coefficients(floor, scales[:, -len(ratios) :], exponents[place])
