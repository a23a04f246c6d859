"""A busy machine must not change verdicts: `python benchmarks/busy.py -m model=rwkv4,transformer`.

Runs the same sweep `times` times on the machine as it is and as often beside each number of busy
processes in `beside`, then compares verdicts: a sweep is false where it decides, at some length,
against what the quiet sweeps decide, or where its decided crossover's interval does not meet
theirs. Sweeps go to runs/GROUP/beside-0-00 and so on; the same command continues. The exit status
is 1 if any verdict is false.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("busy", "benchmarks.busy:main", together=True)

import sys
from collections import Counter
from collections.abc import Sequence

from benchmarks.harness import Row, publish, table
from benchmarks.processes import spinning
from benchmarks.repeatability import describe, models_and_folder, overlap, span, sweep
from conf.schema import BusyConf
from probes.analysis import crossovers
from probes.analysis.crossovers import Comparison
from probes.analysis.metrics import BY_KEY
from probes.analysis.ratios import ABOVE, BELOW
from probes.report.scaling_text import bounded
from scripts.cli.console import CRASHED


def main(confs: list[BusyConf]) -> None:
    """Run the sweeps, print a row for each, and say how many verdicts are false."""
    conf = confs[0]
    specs, folder = models_and_folder(confs)
    sweeps: list[tuple[int, dict[str, Comparison]]] = []
    for number in range(conf.times):
        for count in conf.beside:  # in turn, so that a drift of the machine meets all alike
            with spinning(count):
                pairs = sweep(specs, conf, folder / f"beside-{count}-{number:02d}")
            # Also those of which too little was undisturbed.
            both = {k: p for k, p in pairs.items() if p.recurrent.points and p.attention.points}
            sweeps.append((count, both))
    quiet = [swept for count, swept in sweeps if count == min(conf.beside)]
    rows = []
    false = 0
    for count, swept in sweeps:
        for key, comparison in swept.items():
            why = contradiction(comparison, [pairs[key] for pairs in quiet if key in pairs])
            false += why is not None
            figures = (comparison.kind, describe(comparison), slopes(comparison), why or "no")
            rows.append(Row(f"{count}", (key, *figures)))
    publish(
        "Sweeps beside busy processes",
        table(("busy processes", "measure", "verdict", "crossover", "slopes", "false"), rows),
        [f"{false} of {len(rows)} verdicts are false"],
    )
    if false:
        sys.exit(CRASHED)


def contradiction(comparison: Comparison, quiet: Sequence[Comparison]) -> str | None:
    """How a comparison differs from what the quiet sweeps decide; None if it does not.

    What they decide at a length is what more than half of them do.
    """
    for length in comparison.on(BELOW, ABOVE):
        side = comparison.sides[length]
        votes = Counter(other.sides.get(length) for other in quiet)
        opposite = ABOVE if side == BELOW else BELOW
        if 2 * votes[opposite] > len(quiet):
            return f"{side} at {length:,} tokens, {opposite} when quiet"
    if comparison.kind == "several" and not any(other.kind == "several" for other in quiet):
        return "several crossings, when quiet none or one"
    decided = [span(other) for other in quiet if other.crossover]
    if (
        comparison.crossover
        and decided
        and not any(overlap(span(comparison), interval) for interval in decided)
    ):
        return "the interval of the crossover meets none of the quiet ones"
    return None


def slopes(comparison: Comparison) -> str:
    """`1.00 (0.95 to 1.05) / 1.43 (1.39 to 1.47)`: growth exponents of both sides over the longest
    lengths, with their intervals; `-` where there are too few points."""
    measure = BY_KEY[comparison.measure.key]
    window = (1024, 8192)
    fitted = [
        crossovers.slope(curve, measure, window)
        for curve in (comparison.recurrent, comparison.attention)
    ]
    return " / ".join("-" if slope is None else bounded(slope.exponent, 2) for slope in fitted)
