"""The crossover at equal quality as a table, and as plain values for `crossover.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import units
from core.interval import Interval
from probes.analysis.analysis import Analysis
from probes.analysis.costs import Price
from probes.analysis.equal_quality import MEASURES, Level
from probes.report import tuning_text
from probes.report.markup import Line, Table

CAPTION = (
    "Equal size is not equal quality: for each loss, nats per token, the cheapest size of each "
    "model that reaches it by the fitted law, among sizes that were trained and measured here, and "
    "the context length from which on the recurrent one is the cheaper of the two. Of a token: "
    "after the largest budget both were trained with. Of a whole training: each with the tokens "
    "that it needs. Intervals (95 %) carry the laws and the costs."
)
KINDS = {"always": "at every length", "never": "at no length"}


def compared(analysis: Analysis) -> tuple[Level, ...]:
    """What may be shown: nothing where the models of the study were not searched alike."""
    study = analysis.scaling
    if study is None or not analysis.equal_quality:
        return ()
    labels = [family.label for family in study.families]
    _, is_equal = tuning_text.of_families(analysis.dataset.runs, labels)
    return analysis.equal_quality if is_equal else ()


def table(found: Sequence[Level], price: Price | None) -> Table:
    """A line for each loss and measure: the crossover, and both models at the longest length."""
    if not found:
        return Table("")
    headings = ["cost of", "#loss", "#cheaper from, tokens", "95 % interval", "recurrent, size",
                "time", "other, size", "time", "ratio at the longest"]  # fmt: skip
    if price:
        headings[6:6], headings[9:9] = ["price"], ["price"]
    lines = []
    for one in found:
        sides: list[str] = []
        for size, seconds in zip(one.sizes[-1], one.seconds[-1], strict=True):
            sides += [_parameters(size), _figure(seconds, units.seconds)]
            if price:
                sides.append("" if seconds.value is None else _price(seconds.value, price))
        cells = (
            f"{one.loss:.3f}",
            KINDS.get(one.kind) or _value(one.crossover, units.tokens) or "outside those measured",
            _ends(one.crossover) if one.kind not in KINDS else "",
            *sides,
            _figure(one.ratios[-1], units.significant),
        )
        title = f"{MEASURES[one.measure]}, {one.recurrent} / {one.attention}"
        lines.append(Line(title, cells, 2))
    return Table(CAPTION, tuple(headings), tuple(lines))


def plain(found: Sequence[Level], price: Price | None) -> list[dict[str, Any]]:
    """One entry for each measure, pair of models and loss: `loss`, `tokens` of both (null where
    each has what it needs), `kind`, the `crossover` in tokens of context, and by length
    `parameters`, `seconds` and, with a price, `price` of the recurrent and the other model, and the
    `ratio`; all of them with intervals."""
    return [
        {
            "measure": one.measure,
            "models": [one.recurrent, one.attention],
            "loss": one.loss,
            "tokens": one.tokens,
            "kind": one.kind,
            "crossover": one.crossover.plain(),
            "lengths": {
                str(length): {
                    "parameters": [each.plain() for each in one.sizes[at]],
                    "seconds": [each.plain() for each in one.seconds[at]],
                    "ratio": one.ratios[at].plain(),
                }
                | (
                    {"price": [_money(each.value, price) for each in one.seconds[at]]}
                    if price
                    else {}
                )
                for at, length in enumerate(one.lengths)
            },
        }
        for one in found
    ]


def _money(seconds: float | None, price: Price) -> float | None:
    return None if seconds is None else price.per_hour / 3600 * seconds


def _price(seconds: float, price: Price) -> str:
    return f"{units.significant(price.per_hour / 3600 * seconds)} {price.currency}"


def _parameters(size: Interval) -> str:
    return "" if size.value is None else f"{units.significant(size.value / 1e6)} million"


def _value(found: Interval, said: Any) -> str:
    return "" if found.value is None else str(said(found.value))


def _figure(found: Interval, said: Any) -> str:
    if found.ends is None:
        return _value(found, said)
    return f"{_value(found, said)} ({said(found.ends[0])} to {said(found.ends[1])})"


def _ends(found: Interval) -> str:
    low = "below those measured" if found.low is None else units.tokens(found.low)
    high = "beyond those measured" if found.high is None else units.tokens(found.high)
    return f"{low} to {high}"
