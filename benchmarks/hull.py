"""Hard-max attention by hulls beside a search of all keys: `python benchmarks/hull.py`.

Queries: nanoseconds of one, from caches of 10^2 to 10^6 keys, on one thread, beside a vectorised
scan of as many keys in the same rounds. Prefill: the causal hard-max of all tokens with heads of
size 2, beside PyTorch's flash attention of the same width with one head, from 1k to 128k tokens;
which of T log^2 T and T^2 a time follows (AICc), and from where the hull needs less.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.hull:main")


import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, Samples, in_turns, parse, parser, publish, table
from models.ops.attention import attend
from models.ops.hull import cpu
from models.ops.hull.circle import TURN
from probes.analysis.estimators import loglog_slope
from probes.analysis.shape_fit import aicc, nonnegative

COUNTS = [10**power for power in range(2, 7)]
LENGTHS = [1 << power for power in range(10, 18)]
QUERIES = 20_000
SCANNED = 2e9
"""Keys that one round of the search of all of them may look at, at most."""
CACHES = {
    "normal": "keys of a normal distribution, few of them extreme",
    "parabola": "keys on a parabola, as many extreme as fp32 allows",
    "angles": "keys that are angles: all can be found",
    "addresses": "addresses whose bits are split over two keys: all can be found",
}
Work = Callable[[], object]
Curve = dict[int, Samples]


def main() -> None:
    """Time queries, then prefill, and print both."""
    made = parser(__doc__, rounds=7)
    made.add_argument("--most", type=int, default=COUNTS[-1], help="keys of the largest cache")
    made.add_argument("--longest", type=int, default=LENGTHS[-1], help="tokens of a prefill")
    made.add_argument("--width", type=int, default=64, help="channels of a prefill")
    arguments = parse(made)
    torch.set_num_threads(1)
    counts = [count for count in COUNTS if count <= arguments.most]
    lengths = [length for length in LENGTHS if length <= arguments.longest]
    publish(
        "Hard-max attention by hulls",
        queries(counts, arguments.rounds),
        prefill(lengths, arguments.width, arguments.rounds),
        arguments=arguments,
    )


# ---------------------------------------------------------------- queries


def queries(counts: list[int], rounds: int) -> Iterator[str]:
    """The table of queries over the number of keys, and how fast each kind grows."""
    curves: dict[str, Curve] = {name: {} for name in [*CACHES, "scan"]}

    def rows() -> Iterator[Row]:
        for count in counts:
            works = {name: cache(name, count) for name in CACHES}
            works["scan"] = scan_of(count)
            for name, samples in in_turns(works, rounds).items():
                asked = scan_queries(count) if name == "scan" else QUERIES
                curves[name][count] = samples.scaled(1e9 / asked)
            figures = [curves[name][count].middle(".0f") for name in curves]
            yield Row(f"{count:,}", figures)

    yield from table(["keys", *curves], rows(), "Nanoseconds of a query (quartiles), one thread")
    yield ""
    yield from (f"* {name}: {what}" for name, what in CACHES.items())
    yield "* scan: all keys, fp32, vectorised"
    yield ""
    for name, curve in curves.items():
        yield f"* {name}: log-log slope over the number of keys {slope(curve)}"


def cache(name: str, count: int) -> Work:
    """`QUERIES` queries of a cache of `count` keys."""
    i = torch.arange(count)
    if name == "angles":
        circles = cpu.empty_circles(())
        circles.step(0, torch.randint(TURN, (count,), dtype=torch.int32))
        asked = torch.randint(TURN, (QUERIES,), dtype=torch.int32)
        return lambda: circles.query(asked)
    if name == "addresses":
        addresses = cpu.Addresses()
        addresses.add(torch.randperm(count))
        wanted = torch.randint(count, (QUERIES,))
        return lambda: addresses.find(wanted)
    k = torch.randn(count, 2)
    q = torch.randn(QUERIES, 2)
    if name == "parabola":
        k = torch.stack((2 * i, -i * i), -1).float()
        q = torch.stack((count * torch.rand(QUERIES), torch.ones(QUERIES)), -1)
    hulls = cpu.empty(())
    hulls.step(0, k)
    return lambda: hulls.query(q)


def scan_queries(count: int) -> int:
    """How many are timed: fewer where each takes long."""
    return int(min(QUERIES, SCANNED // 10 // count))


def scan_of(count: int) -> Work:
    """Queries that look at all keys."""
    k, q = torch.randn(count, 2), torch.randn(scan_queries(count), 2)
    return lambda: cpu.scan(q, k)


def slope(curve: Curve) -> str:
    """The log-log slope over the lengths, with its interval."""
    if len(curve) < 2:
        return "needs two points"
    found = loglog_slope({count: {0: [*samples.values]} for count, samples in curve.items()})
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


# ---------------------------------------------------------------- prefill


def prefill(lengths: list[int], width: int, rounds: int) -> Iterator[str]:
    """The table of prefills over the number of tokens, their laws and the crossover."""
    curves: dict[str, Curve] = {"hull": {}, "angles": {}, "scan": {}, "flash": {}}

    def rows() -> Iterator[Row]:
        for length in lengths:
            for name, samples in in_turns(prefills(length, width), rounds).items():
                curves[name][length] = samples
            found = [curve.get(length) for curve in curves.values()]
            yield Row(f"{length:,}", [one.scaled(1e3).middle() if one else "" for one in found])

    title = f"Milliseconds of a prefill of width {width} (quartiles), one thread"
    yield from table(["tokens", *curves], rows(), title)
    yield ""
    heads = width // 2
    yield f"* hull, angles and scan: {heads} heads of size 2; flash: 1 head of size {width}"
    yield "* angles: keys one by one into a sorted set; hull: dyadic hulls"
    yield ""
    for name, curve in curves.items():
        yield f"* {name}: slope {slope(curve)}; {law(curve)}"
    yield f"* hull needs less than flash from {crossing(curves['hull'], curves['flash'])}"


def prefills(length: int, width: int) -> dict[str, Work]:
    """What is timed at one length."""
    heads = width // 2
    q, k, v = (torch.randn(heads, length, 2) for _ in range(3))
    angles = torch.randint(TURN, (2, heads, length), dtype=torch.int32)
    wide = torch.randn(3, 1, 1, length, width)

    def by_angles() -> object:
        return cpu.empty_circles((heads,), 2, length).step(0, angles[0], angles[1], v)

    def by_scan() -> list[Tensor]:
        return [cpu.scan(q[head], k[head], causal=True) for head in range(heads)]

    works: dict[str, Work] = {
        "hull": lambda: cpu.prefill(q, k, v),
        "angles": by_angles,
        "flash": lambda: attend(wide[0], wide[1], wide[2], "flash"),
    }
    if heads * length**2 / 2 <= SCANNED * 10:
        works["scan"] = by_scan
    return works


def law(curve: Curve) -> str:
    """Whether times follow T log^2 T or T^2, by the difference of their AICc."""
    lengths = np.array([*curve], dtype=float)
    count = sum(len(samples.values) for samples in curve.values())
    if len(curve) < 4 or count < 8:
        return "too few lengths to tell the law"
    middle = np.array([samples.median for samples in curve.values()])
    each = [len(samples.values) for samples in curve.values()]
    values = np.concatenate([samples.values for samples in curve.values()])
    targets = (values / np.repeat(middle, each))[None]
    share = lengths / lengths.max()
    logs = (np.log(lengths) / math.log(lengths.max())) ** 2
    shapes = {
        "T log^2 T": [share**0, share * logs],
        "T^2": [share**0, share, share**2],
    }
    scores = {}
    for name, columns in shapes.items():
        design = np.repeat(np.stack(columns, axis=1) / middle[:, None], each, axis=0)
        fitted = nonnegative(design, targets) @ design.T
        scores[name] = aicc(float(np.square(targets - fitted).sum()), count, len(columns))
    best, other = sorted(scores, key=lambda name: scores[name])
    return f"{best} fits better than {other}, AICc by {scores[other] - scores[best]:.1f}"


def crossing(hull: Curve, flash: Curve) -> str:
    """The length from which the hull needs less, with quartiles over rounds.

    In each round between the last length at which flash needs less and the next one, on a straight
    line in logarithms.
    """
    lengths = [length for length in hull if length in flash]
    ratios = np.log([np.array(hull[n].values) / np.array(flash[n].values) for n in lengths])
    found = []
    for ratio in ratios.T:
        slower = [i for i, value in enumerate(ratio) if value >= 0]
        if not slower:
            return f"{lengths[0]:,} tokens or fewer"
        last = slower[-1]
        if last + 1 == len(lengths):
            return f"beyond {lengths[-1]:,} tokens"
        part = ratio[last] / (ratio[last] - ratio[last + 1])
        found.append(lengths[last] * (lengths[last + 1] / lengths[last]) ** part)
    return f"{Samples(tuple(found)).middle(',.0f')} tokens"
