"""Measure the statistics against sweeps of known truth: `python benchmarks/statistics_study.py`.

Prints the tables of docs/statistics.md: the error of estimators of a point, how often verdicts are
right, undecided or wrong, how often intervals of a crossover hold the truth, and what is called
linear. `--rounds` are the sweeps per cell.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.statistics_study:main")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

from benchmarks.harness import Row, parse, parser, publish, table
from probes.analysis.bootstrap import Array
from probes.analysis.crossovers import TIME, is_linear, kind_of
from probes.analysis.estimators import bend
from probes.analysis.ratios import Ratios, ratios

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
Cost = Callable[[float], float]
Samples = dict[int, dict[int, list[float]]]


@dataclass(frozen=True)
class Noise:
    """The noise of a sweep, as shares and relative sizes."""

    name: str
    processes: int = 3
    repeats: int = 5
    within: float = 0.01
    between: float = 0.015
    delayed: float = 0.0
    """Share of the repeats that take 1.1 to 20 times as long."""
    held: float = 0.0
    """Share of the repeats that take longer by 30 % on average, exponentially."""
    bursts: float = 0.0
    """Share of the processes that are 1.1 to 3 times as slow, of one model alone."""
    drift: float = 0.0
    """By how much both models slow down from the first process to the last."""

    @property
    def contamination(self) -> float:
        """Share of the repeats or of the processes that others slow down."""
        return max(self.delayed, self.held, self.bursts)


NOISES = (
    Noise("quiet"),
    Noise("quiet, 5 processes", processes=5),
    Noise("quiet, 1 process", processes=1),
    Noise("10 % of the repeats delayed", delayed=0.1),
    Noise("20 % delayed", delayed=0.2),
    Noise("20 % delayed, 1 process", delayed=0.2, processes=1),
    Noise("20 % delayed, 5 processes", delayed=0.2, processes=5),
    Noise("30 % held up a little", held=0.3),
    Noise("drift of 20 %", drift=0.2),
    Noise("5 % of the processes in bursts", bursts=0.05),
    Noise("10 % in bursts, 5 processes", bursts=0.1, processes=5),
    Noise("drift, 5 % in bursts", drift=0.2, bursts=0.05),
    Noise("drift, 10 % in bursts, 5 processes", drift=0.2, bursts=0.1, processes=5),
    Noise("45 % delayed, 5 processes", delayed=0.45, processes=5),
    Noise("60 % delayed, 5 processes", delayed=0.6, processes=5),
)


def linear(t: float) -> float:
    return 0.01 + 1e-5 * t


def quadratic(t: float) -> float:
    """Dearer than `linear` beyond `CROSSING`."""
    return 0.006 + 8e-6 * t + 3e-9 * t * t


CROSSING = 1000 * (1 + sqrt(13)) / 3
TRUTHS: dict[str, tuple[Cost, Cost]] = {
    "crosses": (linear, quadratic),
    "25 % apart": (linear, lambda t: 1.25 * linear(t)),
    "2 % apart": (linear, lambda t: 1.02 * linear(t)),
}


def sweep(cost: Cost, noise: Noise, rng: np.random.Generator) -> Samples:
    """Repeats of one model by length and process."""
    samples: Samples = {}
    shape = noise.repeats
    for length in LENGTHS:
        samples[length] = {}
        for process in range(noise.processes):
            logs = noise.within * rng.standard_normal(shape) + noise.between * rng.standard_normal()
            logs += np.log(rng.uniform(1.1, 20, shape)) * (rng.random(shape) < noise.delayed)
            logs += np.log1p(rng.exponential(0.3, shape)) * (rng.random(shape) < noise.held)
            logs += np.log(rng.uniform(1.1, 3)) * (rng.random() < noise.bursts)
            logs += np.log1p(noise.drift) * process / max(1, noise.processes - 1)
            samples[length][process] = list(cost(length) * np.exp(logs))
    return samples


def compared(truth: str, noise: Noise, seed: int) -> Ratios:
    """One sweep of two models."""
    rng = np.random.default_rng(seed)
    first, second = (sweep(cost, noise, rng) for cost in TRUTHS[truth])
    return ratios(first, second, TIME)


def verdicts(truth: str, noise: Noise, seeds: int) -> tuple[float, float, float, float]:
    """Shares that are right, undecided and wrong, and of crossings whose interval holds."""
    right = undecided = held = 0
    wanted = "crosses" if truth == "crosses" else "always"
    for seed in range(seeds):
        estimate = compared(truth, noise, seed)
        kind = kind_of(list(estimate.sides.values()))
        right += kind == wanted
        undecided += kind == "undecided"
        if kind == wanted == "crosses":
            low, high = estimate.changes[0].length.ends or (0, 0)
            held += low <= CROSSING <= high
    wrong = seeds - right - undecided
    return right / seeds, undecided / seeds, wrong / seeds, held / max(1, right)


def half_sample_mode(values: Array) -> float:
    """The half that lies closest together, again and again (Robertson and Cryer 1974)."""
    values = np.sort(values)
    while len(values) > 2:
        half = (len(values) + 1) // 2
        start = int(np.argmin(values[half - 1 :] - values[: len(values) - half + 1]))
        values = values[start : start + half]
    return float(values.mean())


GROWTHS: dict[str, tuple[Cost, float]] = {
    "a + bT, small a": (lambda t: 2e-4 + 1e-5 * t, 0.02),
    "a + bT": (linear, 0.02),
    "a + bT, large a": (lambda t: 0.05 + 1e-5 * t, 0.02),
    "T^1.05": (lambda t: 1e-5 * t**1.05, 0.03),
    "T^1.1": (lambda t: 1e-5 * t**1.1, 0.03),
    "T^0.9": (lambda t: 1e-5 * t**0.9, 0.02),
    "a + bT + cT²": (quadratic, 0.02),
}


ESTIMATORS: dict[str, Callable[[Array], float]] = {
    "minimum": lambda x: float(x.min()),
    "10 %": lambda x: float(np.quantile(x, 0.1)),
    "quartile": lambda x: float(np.quantile(x, 0.25)),
    "lower half": lambda x: float(np.sort(x)[: (len(x) + 1) // 2].mean()),
    "half-sample mode": half_sample_mode,
    "median": lambda x: float(np.median(x)),
    "mean": lambda x: float(x.mean()),
}
"""Each is used over the repeats of a process, and again over the processes."""


def called_linear(cost: Cost, size: float, seeds: int) -> float:
    """Share, with five processes and this noise of repeats and of processes each."""
    noise = Noise("", processes=5, within=size / sqrt(2), between=size / sqrt(2))
    calls = 0
    for seed in range(seeds):
        fitted = bend(sweep(cost, noise, np.random.default_rng(seed)))
        calls += fitted is not None and is_linear(fitted)
    return calls / seeds


ENOUGH = 20
"""Crossings of which to tell how many intervals hold."""


def main() -> None:
    """Print all tables."""
    arguments = parse(parser(__doc__, rounds=300))
    seeds = arguments.rounds
    columns = ("noise", "truth", "right", "not decided", "wrong", "interval holds")
    publish(
        "The statistics against sweeps of known truth",
        table(("noise", *ESTIMATORS), (estimation_row(noise, 5 * seeds) for noise in NOISES)),
        table(columns, (verdict_row(truth, noise, seeds) for truth in TRUTHS for noise in NOISES)),
        table(("cost", "noise", "called linear"), linear_rows(seeds)),
        arguments=arguments,
    )


def estimation_row(noise: Noise, seeds: int) -> Row:
    """Root mean square error of the log value of a point, in per cent."""
    errors: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    rng = np.random.default_rng(0)
    for _ in range(seeds):
        processes = sweep(lambda t: 1.0, noise, rng)[LENGTHS[0]].values()
        for name, of in ESTIMATORS.items():
            point = of(np.array([of(np.array(repeats)) for repeats in processes]))
            errors[name].append(np.log(point))
    roots = [100 * sqrt(float(np.mean(np.square(of_name)))) for of_name in errors.values()]
    return Row(noise.name, [f"{root:.1f}" for root in roots])


def verdict_row(truth: str, noise: Noise, seeds: int) -> Row:
    *shares, holds = verdicts(truth, noise, seeds)
    cells = [f"{100 * share:.1f} %" for share in shares]
    if truth == "crosses" and shares[0] * seeds >= ENOUGH:
        cells.append(f"{100 * holds:.1f} %")
    return Row(noise.name, (truth, *cells))


def linear_rows(seeds: int) -> Iterator[Row]:
    for name, (cost, size) in GROWTHS.items():
        share = called_linear(cost, size, seeds)
        yield Row(name, (f"{100 * size:.0f} %", f"{100 * share:.1f} %"))
