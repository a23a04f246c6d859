"""What a page of the report shows, and the numbers that its sentences may have.

The page is parsed, and figures of rows.csv are computed here once more, without the code that made
them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from math import floor, log10
from typing import Any

from probes.analysis.metrics import BY_KEY
from probes.report import html

Record = dict[str, Any]

# ---- what the page shows -------------------------------------------------------------------------

INLINE = {"code", "i", "br"}
VOID = {"meta", "link", "br", "input", "img"}


class Shown(HTMLParser):
    """Texts of the blocks, spoken attributes, places of the tracks' parts, the script's data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.spoken: list[str] = []
        self.places: list[tuple[str, str]] = []
        self.data: Any = None
        self._open: list[tuple[str, list[str] | None, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = {name: value or "" for name, value in attrs}
        self.spoken += [kept[name] for name in ("aria-label", "alt") if kept.get(name)]
        if "left:" in kept.get("style", ""):
            self.places.append((kept.get("class", ""), kept["style"].partition(";--")[0]))
        if tag in VOID:
            return
        inline = tag in INLINE or kept.get("class") == "nowrap"
        css = kept.get("class") or kept.get("id") or ""
        self._open.append((tag, None if inline else [], css))

    def handle_endtag(self, tag: str) -> None:
        opened, pieces, css = self._open.pop()
        assert opened == tag
        if pieces is None or tag == "style":
            return
        text = " ".join("".join(pieces).replace("\u00a0", " ").split(" ")).strip()
        if tag == "script":
            self.data = json.loads(text) if css == "data" else self.data
        elif text:
            self.texts += text.split(" · ") if css == "meta" else text.split("\n")

    def handle_data(self, data: str) -> None:
        for _, pieces, _ in reversed(self._open):
            if pieces is not None:
                pieces.append(data)
                break


LABELS = {
    "Crossover report", "Log axes", "Linear axes", "Copy rows as CSV", "Command",
    "What was compared, and what that does not say",
    "The charts need JavaScript. The table of all numbers holds what they show.",
    "What you would notice", "Waiting, writing and memory, and how much text an hour makes",
    "Single tokens",
    "Where the recurrent model loses",
    "First the losses, then the wins, in words and by context length",
    "Who is cheaper, at which context length",
    "Curves", "Every cost against context length, where the order changes, and how costs grow",
    "Crossover lengths", "How costs grow",
    "Quality", "How well each predicts text", "How well each predicts text, and what each wrote",
    "What each wrote", "Loss against training compute", "All trainings",
    "Cost", "What the work takes of time, device and energy, and how much fits into memory",
    "How it was measured", "Machine, versions, commands, and what did not finish",
    "Points that did not finish",
    "All numbers", "One table of every point, and the rows behind it",
    "Measure", "Context", "Model", "all",
    *html.ACCOUNTS.values(),
}  # fmt: skip
"""Headings, buttons, and the one sentence for readers without scripts."""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value in JSON with its path."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            yield from leaves(one, (*path, key))
    else:
        yield path, value


def strings(value: Any) -> set[str]:
    return {one for _, one in leaves(value) if isinstance(one, str)}


# ---- numbers -------------------------------------------------------------------------------------

SCALES = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0,
          "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}  # fmt: skip
NUMBER = re.compile(
    r"(?<![\w.^-])(\d[\d,]*(?:\.\d+)?)"
    r"(?: ?(%)| (µs|ms|s|min|B|KiB|MiB|GiB|times as much|tokens)\b)?"
)


def rounds(shown: str, value: float, digits: int) -> bool:
    """Whether the text is the value, rounded to as many digits or more."""
    if value == 0:
        return float(shown.replace(",", "")) == 0
    step = 10.0 ** (floor(log10(abs(value))) - digits + 1)
    _, _, decimals = shown.partition(".")
    step = max(step, 0.0) if not decimals else min(step, 10.0 ** -len(decimals))
    return abs(float(shown.replace(",", "")) - value) <= 0.5001 * step


def is_quantity(text: str, value: float) -> bool:
    """Whether `2.26 s` or `180 KiB` is the value to three digits."""
    number, _, unit = text.partition(" ")
    return unit in SCALES and rounds(number, value / SCALES[unit], 3)


def is_length(text: str, value: float) -> bool:
    """A measured length exactly, another one to three digits."""
    return text == f"{value:,}" if isinstance(value, int) else rounds(text, value, 3)


@dataclass
class Pool:
    """What numbers in sentences can be, by kind."""

    tokens: list[float] = field(default_factory=list)
    quantities: list[float] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)

    def unknown(self, text: str, names: list[str]) -> list[str]:
        """Numbers of a text that are none of these."""
        for name in names:
            text = text.replace(name, "")
        return [found[0] for found in NUMBER.finditer(text) if not self._knows(found)]

    def _knows(self, found: re.Match[str]) -> bool:
        number, percent, unit = found.groups()
        number = number.rstrip(",")
        if found[0] in self.exact or percent:
            return found[0] in self.exact
        if unit in SCALES:
            return any(is_quantity(f"{number} {unit}", one) for one in self.quantities)
        if unit == "times as much":
            value = float(number.replace(",", ""))
            return any(rounds(number, one, 2 if value >= 1.1 else 3) for one in self.factors)
        if any(is_length(number, one) for one in self.tokens):
            return True
        return unit != "tokens" and any(rounds(number, one, 4) for one in self.others)


def pool_of(record: Record, keys: list[str] | None = None) -> Pool:
    """Of all measures, or of some of their keys."""
    pool = Pool(exact={"95 %", "1 %", "2 %", "2.00 MiB"})
    for key, entry in record["crossovers"].items():
        if keys is None or key.partition(":")[0] in keys:
            places = [entry.get(name) for name in ("length", "low", "high")]
            places += [
                one for name in ("crossings", "low", "high") for one in _several(entry, name)
            ]
            pool.tokens += [float(one) for one in places if one is not None]
            ratios = [one["value"] for one in entry.get("ratios", {}).values()]
            pool.factors += [*ratios, *(1 / one for one in ratios)]
            pool.others += [len(entry.get("crossings", [])), len(entry["disturbed"])]
    for key, curve in record["curves"].items():
        if keys is None or key in keys:
            points = [one for points in curve["points"].values() for one in points]
            pool.tokens += [one["length"] for one in points]
            pool.quantities += [one["value"] for one in points if one["value"]]
            pool.others += [sum(one["status"] == "disturbed" for one in points)]
    return pool


def _several(entry: Record, name: str) -> list[float]:
    found = entry.get(name)
    return [one for one in found if one] if isinstance(found, list) else []


# ---- rows.csv ------------------------------------------------------------------------------------


def quartile(values: list[float]) -> float:
    ordered, place = sorted(values), (len(values) - 1) / 4
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def percentile(values: list[float], percent: float) -> float:
    ordered, place = sorted(values), (len(values) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


class Csv:
    """The rows of rows.csv, and what a curve makes of them."""

    def __init__(self, text: str) -> None:
        packed = ("seconds", "token_seconds", "tried", "disturbed", "options")
        self.rows = [
            {name: json.loads(value) if name in packed else value for name, value in row.items()}
            for row in csv.DictReader(io.StringIO(text))
        ]

    def points(self, label: str, probe: str, sweep: str) -> dict[int, dict[int, Any]]:
        found: dict[int, dict[int, Any]] = defaultdict(dict)
        for row in self.rows:
            words = [row["model"]]
            words += [
                v if isinstance(v, str) else f"{k} {v}" for k, v in dict(row["options"]).items()
            ]
            if (" ".join(words), row["probe"], row["sweep"]) == (label, probe, sweep):
                found[int(row["context_length"])][int(row["process"])] = row
        return found

    @staticmethod
    def busy(row: Any) -> bool:
        """Fewer than half of the repeats, and fewer than three, were left alone."""
        marks = row["disturbed"]
        return row["status"] == "ok" and marks.count(False) < min(3, (len(marks) + 1) // 2)

    @classmethod
    def quiet(cls, row: Any, values: list[float]) -> list[float]:
        if cls.busy(row) or not row["disturbed"]:
            return values
        return [one for one, bad in zip(values, row["disturbed"], strict=True) if not bad]

    @classmethod
    def costs(cls, row: Any, key: str) -> list[float]:
        """Of one process, every repeat of what a measure draws."""
        kind = BY_KEY[key].field
        seconds = cls.quiet(row, row["seconds"])
        if kind == "p95":
            each = len(row["token_seconds"]) // max(1, len(row["seconds"]))
            places = range(len(row["seconds"]))
            tokens = [row["token_seconds"][n * each : (n + 1) * each] for n in places]
            return cls.quiet(row, [percentile(one, 95) for one in tokens])
        if kind == "share":
            return [float(row["budget_bytes"]) / float(row["max_batch"])]
        if kind == "batch_seconds":
            return [one / float(row["max_batch"]) for one in seconds]
        if kind == "seconds":
            full = row["sweep"] == "fixed_tokens"
            parts = int(row["batch"]) * (int(row["context_length"]) if full else 1)
            return [one / (1 if row["probe"] == "decode" else parts) for one in seconds]
        return [float(row[kind]) / int(row["batch"])] if row[kind] else []

    def curve(self, label: str, key: str, curve: Record) -> list[Any]:
        """`(length, status, value, repeats)` of every point."""
        timed = curve["unit"] == "s"
        found: list[Any] = []
        points = self.points(label, curve["probe"], curve["sweep"])
        for length, own in sorted(points.items()):
            lost = [row["status"] for _, row in sorted(own.items()) if row["status"] != "ok"]
            if lost:
                found.append((length, lost[0], None, []))
                continue
            left = {n: row for n, row in own.items() if not (timed and self.busy(row))}
            each = [self.costs(row, key) for _, row in sorted((left or own).items())]
            each = [one for one in each if one]
            if each:
                value = quartile([quartile(one) for one in each])
                status = "ok" if left else "disturbed"
                found.append((length, status, value, [one for repeats in each for one in repeats]))
        return found
