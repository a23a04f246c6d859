"""What a page of the report shows, and whether it is what crossover.json and rows.csv hold.

The page is parsed, and curves, cells and numbers in sentences are computed here once more, without
the code that made them. `problems` says what does not fit.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from math import floor, log2, log10
from typing import Any

import pytest

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
    "Crossover report", "Log axes", "Linear axes", "The same as a table", "Copy rows as CSV",
    "Command",
    "Where the recurrent model loses", "Who is cheaper, at which context length", "The curves",
    "The models", "Crossover lengths", "How costs grow", "How it was measured", "Raw data",
    "Points that did not finish", "Loss against training compute", "All trainings",
    "The charts need JavaScript. The table under each holds the same numbers.",
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


# ---- the checks: each yields what is wrong -------------------------------------------------------


def check_texts(shown: Shown, record: Record) -> Iterator[str]:
    """What the page says is in the record, and the other way round."""
    told = record["page"]
    said = strings(told) | {text for one in told["method"]["facts"] for text in (one,)}
    said |= {line for one in told["method"]["commands"] for line in one.split("\n")}
    said |= strings(record.get("scaling", {}).get("page", {}))
    if told["ranges"]:
        said |= {f"{tick:,}" for tick in told["ranges"]["ticks"]}
    names = {one[0] for one in told["tables"]["models"]["rows"]}
    for text in shown.texts:
        if text not in said | names | LABELS:
            yield f"not in crossover.json: {text!r}"
    for text in shown.spoken:
        plain = text.removesuffix(", arrow keys read the points")
        if plain not in said and re.search(r"\d", plain):
            yield f"spoken, not in crossover.json: {text!r}"
    everything = set(shown.texts) | set(shown.spoken) | strings(shown.data)
    for path, text in leaves(told):
        internal = path[-1] in ("key", "side") or "arms" in path
        if isinstance(text, str) and text and not internal and text not in everything:
            for line in text.split("\n"):
                if line not in everything:
                    yield f"not on the page: {path} {line!r}"


def check_charts(shown: Shown, record: Record, rows: Csv) -> Iterator[str]:
    """What the script draws is the record, and the record follows from the rows."""
    charts = record["page"]["charts"]
    if [one["key"] for one in charts] != list(record["curves"]):
        yield "charts and curves differ"
    for drawn, chart in zip(shown.data["charts"], charts, strict=True):
        key = chart["key"]
        curve = record["curves"][key]
        for name in ("axis", "alt", "crossings", "undecided", "ratios"):
            if drawn[name] != chart[name]:
                yield f"{key}: {name} differs"
        if {one["arm"] for one in drawn["series"]} != set(curve["points"]):
            yield f"{key}: other models"
        for one in drawn["series"]:
            expected = rows.curve(one["arm"], key, curve)
            told, texts = curve["points"][one["arm"]], chart["points"][one["arm"]]
            if not len(expected) == len(told) == len(texts) == len(one["points"]):
                yield f"{key} {one['arm']}: other points"
                continue
            points = zip(one["points"], told, texts, expected, strict=True)
            for point, mine, said, (length, status, value, repeats) in points:
                where = f"{key} {one['arm']} {length}"
                for name in ("length", "status", "value", "middle_half"):
                    if point[name] != mine[name]:
                        yield f"{where}: {name} drawn differs"
                if (mine["length"], mine["status"]) != (length, status) or point["tip"] != said:
                    yield f"{where}: other point"
                if value is None:
                    lost = (mine["value"], said["text"], mine["error"])
                    if lost != (None, status.replace("_", " "), said.get("error")):
                        yield f"{where}: a value of what failed"
                    continue
                yield from _check_value(where, mine, point, said, value, repeats)
        yield from _check_cells(chart, curve)


def _check_value(
    where: str, mine: Record, point: Record, said: Record, value: float, repeats: list[float]
) -> Iterator[str]:
    ends = [percentile(repeats, 25), percentile(repeats, 75)]
    if mine["value"] != pytest.approx(value) or mine["middle_half"] != pytest.approx(ends):
        yield f"{where}: {mine['value']} is not that of the rows"
    if point["raw"] != pytest.approx(repeats) or mine["repeats"] != len(repeats):
        yield f"{where}: other repeats"
    text = said["text"].removesuffix(", disturbed")
    if (mine["status"] == "disturbed") != (text != said["text"]) or not is_quantity(text, value):
        yield f"{where}: {said['text']}"
    if len(repeats) > 1:
        half = said["half"].removeprefix("middle half ").split(" to ")
        every = said["repeats"].removeprefix("repeats ").split(", ")
        pairs = [*zip(half, ends, strict=True), *zip(every, repeats, strict=True)]
        if not all(is_quantity(one, known) for one, known in pairs):
            yield f"{where}: {said['half']}, {said['repeats']}"


def _check_cells(chart: Record, curve: Record) -> Iterator[str]:
    """The table below a chart."""
    by_length: dict[str, list[str]] = defaultdict(lambda: [""] * len(curve["points"]))
    for place, (label, points) in enumerate(curve["points"].items()):
        for point, said in zip(points, chart["points"][label], strict=True):
            by_length[f"{point['length']:,}"][place] = said["text"]
    if chart["table"]["rows"] != [[length, *cells] for length, cells in by_length.items()]:
        ordered = sorted(by_length, key=lambda one: int(one.replace(",", "")))
        if chart["table"]["rows"] != [[length, *by_length[length]] for length in ordered]:
            yield f"{chart['key']}: table {chart['table']['rows']}"


def check_ratios(record: Record) -> Iterator[str]:
    """Tooltips' ratios, marks of crossings, and what is not decided."""
    for chart in record["page"]["charts"]:
        entries = {
            tuple(one["models"]): one
            for key, one in record["crossovers"].items()
            if key.partition(":")[0] == chart["key"]
        }
        for told in chart["ratios"]:
            entry = entries[tuple(told["arms"])]
            if set(told["texts"]) != set(entry["ratios"]):
                yield f"{chart['key']}: ratios at other lengths"
            sides = {"below": "cheaper", "above": "dearer", "undecided": "not decided"}
            for length, text in told["texts"].items():
                one = entry["ratios"].get(length, {})
                found = re.fullmatch(r".* = ([\d,.]+)(?: \(([\d,.]+) to ([\d,.]+)\))?, (.*)", text)
                known = [one.get(name) for name in ("value", "low", "high")]
                shown = found.groups()[:3] if found else ()
                good = [
                    (text is None) == (value is None) and (text is None or rounds(text, value, 3))
                    for text, value in zip(shown, known, strict=False)
                ]
                side = sides.get(one.get("side", ""), "equal")
                if not found or not all(good) or found[4] != side:
                    yield f"{chart['key']} {length}: {text}"
        for all_series, entry in entries.items():
            marks = [one for one in chart["crossings"] if tuple(one["arms"]) == all_series]
            places = entry.get("crossings") or [entry["length"]] if "length" in entry else []
            places = entry.get("crossings", places)
            if [one["length"] for one in marks] != places:
                yield f"{chart['key']}: marks of {marks}"
            if entry["kind"] == "crosses":
                ends = [entry["length"], entry["low"], entry["high"]]
                if [marks[0][name] for name in ("length", "low", "high")] != ends:
                    yield f"{chart['key']}: interval of {marks}"
            if not all(is_length(one["text"], one["length"]) for one in marks):
                yield f"{chart['key']}: text of {marks}"
            unclear = [int(at) for at, one in entry.get("ratios", {}).items()
                       if one["side"] == "undecided"
                       and not any(mark["low"] and mark["low"] <= int(at) <= mark["high"]
                                   for mark in marks)]  # fmt: skip
            runs = [run for one in chart["undecided"] if tuple(one["arms"]) == all_series
                    for run in one["runs"]]  # fmt: skip
            covered = [at for at in unclear if any(low <= at <= high for low, high in runs)]
            if covered != unclear or {end for run in runs for end in run} - set(unclear):
                yield f"{chart['key']}: {runs} are not decided, of {unclear}"


def check_findings(record: Record, rows: Csv) -> Iterator[str]:
    """The kind of every comparison follows from its sides; curves are those of rows."""
    for key, one in record["crossovers"].items():
        ratios = one.get("ratios", {})
        sides = [ratio["side"] for ratio in ratios.values()]
        strict = [side for side in sides if side in ("below", "above")]
        turns = [other for before, other in pairwise(strict) if before != other]
        if len(sides) < 2:
            kind = "missing"
        elif turns:
            kind = {"below": "crosses", "above": "reverse"}[turns[0]]
            kind = "several" if len(turns) > 1 else kind
        elif "undecided" in sides:
            kind = "undecided"
        else:
            kind = {"below": "always", "above": "never"}[strict[0]] if strict else "equal"
        unclear = [int(at) for at, ratio in ratios.items() if ratio["side"] == "undecided"]
        between = [min(unclear), max(unclear)] if unclear else None
        curve = record["curves"].get(key.partition(":")[0], {"points": {}})["points"]
        points = [point for label in one["models"] for point in curve.get(label, [])]
        lost = sorted({point["length"] for point in points if point["status"] == "disturbed"})
        expected = (kind, len(turns), between, lost, "95 % bootstrap")
        counted = one.get("multiplicity", 0), one.get("between", between)
        if (one["kind"], *counted, one["disturbed"], one["interval"]) != expected:
            yield f"{key}: {one}, expected {expected}"
    for key, curve in record["curves"].items():
        facts = [getattr(BY_KEY[key], name) for name in ("title", "unit", "per", "probe", "sweep")]
        if list(curve.values())[:5] != facts:
            yield f"{key} is {curve}"
        for label, points in curve["points"].items():
            for point in points:
                own = rows.points(label, curve["probe"], curve["sweep"])[point["length"]]
                left = [row for row in own.values() if curve["unit"] == "B" or not Csv.busy(row)]
                count = 0 if point["value"] is None else len(left or own)
                if point["processes"] != count:
                    yield f"{key} {label}: {point}"
    for label, one in record["models"].items():
        sizes = {row["size"] for row in rows.rows if row["model"] == one["model"]}
        if sizes != {one["size"]} or not label.startswith(one["model"]):
            yield f"model {one}"
    for by_measure in record["slopes"].values():
        for slope in by_measure.values():
            if slope["aicc"] and sum(slope["aicc"].values()) != pytest.approx(1):
                yield f"weights {slope['aicc']}"


def check_tracks(shown: Shown, record: Record) -> Iterator[str]:
    """The places of the tracks' parts are those of the record's lengths."""
    ranges = record["page"]["ranges"]
    if not ranges:
        return
    low, high = ranges["ticks"][0], ranges["ticks"][-1]

    def left(at: float) -> str:
        return f"left:{100 * log2(at / low) / log2(high / low):.2f}%"

    def across(start: float, end: float) -> str:
        return f"{left(start)};width:{100 * log2(end / start) / log2(high / low):.2f}%"

    charts = {chart["key"]: chart for chart in record["page"]["charts"]}
    sides = {"below": "part", "above": "part", "equal": "part equal", "undecided": "part undecided"}
    expected = []
    found = [(key, one) for key, one in record["crossovers"].items() if one["kind"] != "missing"]
    found = [(key, one) for key, one in found if one["sweep"] == "batch_1"]
    for track, (key, entry) in zip(ranges["tracks"], found, strict=True):
        marks = charts[key.partition(":")[0]]["crossings"]
        if track["crossings"] != [one for one in marks if one["arms"] == entry["models"]]:
            yield f"track {track['what']} marks other lengths"
        for part in track["stretches"]:
            expected.append((sides[part["side"]], across(part["start"], part["end"])))
        for one in track["crossings"]:
            if one["low"] is not None:
                expected.append(("unsure", across(one["low"], one["high"])))
            expected.append(("at", left(one["length"])))
        lengths = [int(at) for at in entry["ratios"]]
        parts = track["stretches"]
        if [parts[0]["start"], parts[-1]["end"]] != [lengths[0], lengths[-1]]:
            yield f"track {track['what']} is not of {lengths}"
        for at, one in entry["ratios"].items():
            beside = {part["side"] for part in parts if part["start"] <= int(at) <= part["end"]}
            inside = any(
                (mark["low"] or 0) <= int(at) <= (mark["high"] or 0) for mark in track["crossings"]
            )
            if one["side"] not in beside | {"equal"} and not inside:
                yield f"track {track['what']}: {at} is {one['side']}, drawn {beside}"
    placed = [(css, style.rstrip(";")) for css, style in shown.places]
    if [one for one in placed if one[0] in {"at", "unsure", *sides.values()}] != expected:
        yield "bars stand elsewhere"
    for tick in ranges["ticks"]:
        if ("", left(tick)) not in shown.places:
            yield f"tick {tick}"


def check_tables(record: Record, rows: Csv) -> Iterator[str]:
    """Every cell of the other tables, from the numbers of the record and the rows."""
    told, made = record["page"]["tables"], expected_tables(record, rows)
    for name, expected in made.items():
        lines = told.get(name, {"rows": []})["rows"]
        if len(lines) != len(expected):
            yield f"{name}: {len(lines)} lines, {len(expected)} expected"
            continue
        for line, cells in zip(lines, expected, strict=True):
            for cell, known in zip(line, cells, strict=True):
                if not (known(cell) if callable(known) else cell == known):
                    yield f"{name}: {cell!r} in {line}"


Cell = str | Callable[[str], bool]


def _digits(value: float | None, digits: int, suffix: str = "", none: str = "") -> Cell:
    if value is None:
        return none
    return lambda cell: cell.endswith(suffix) and rounds(cell.removesuffix(suffix), value, digits)


def expected_tables(record: Record, rows: Csv) -> dict[str, list[list[Cell]]]:
    names = {
        label: row[0]
        for label, row in zip(
            record["models"], record["page"]["tables"]["models"]["rows"], strict=False
        )
    }
    anything: Cell = lambda cell: True  # noqa: E731
    titles = {key: measure.title for key, measure in BY_KEY.items()}
    models: list[list[Cell]] = [
        [
            names[label],
            f"{one['parameters']:,}" if one["parameters"] else "unknown",
            *(
                f"{one[name]:{style}}" if one.get(name) is not None else "–"
                for name, style in (("val_loss", ".3f"), ("bits_per_byte", ".3f"),
                                    ("tokens_per_second", ",.0f"))
            ),
            "; ".join(f"{op}: {', '.join(used)}" for op, used in one["backends"].items()),
        ]
        for label, one in record["models"].items()
    ]  # fmt: skip
    base = record["baselines"]
    for name, field_, place in (
        ("gzip -9", "gzip_bits_per_byte", 3),
        ("xz -9", "xz_bits_per_byte", 3),
        ("token frequencies alone", "unigram_entropy", 2),
    ):
        if base[field_] is not None:
            cells: list[Cell] = [name, "", "", "", "", ""]
            cells[place] = f"{base[field_]:.3f}"
            models.append(cells)
    several = any(":" in key for key in record["crossovers"])
    crossovers = [
        _crossover(key, one, titles, names, several) for key, one in record["crossovers"].items()
    ]
    slopes: list[list[Cell]] = [
        [
            names[label], f"{one['value']:.2f}", titles[key],
            "one value per point" if one["low"] is None
            else f"{one['low']:.2f} to {one['high']:.2f}",
            "{:,} to {:,}".format(*one["window"]), _linear(one), _shape(one["aicc"]),
        ]
        for key in titles for label in names
        if (one := record["slopes"][label].get(key))
    ]  # fmt: skip
    lost: list[list[Cell]] = []
    for key, one in record["crossovers"].items():
        dearer = [int(at) for at, ratio in one.get("ratios", {}).items()
                  if ratio["side"] == "above" and one["kind"] != "missing"]  # fmt: skip
        if dearer:
            pair = " / ".join(names[label] for label in one["models"])
            every = len(dearer) == len(one["ratios"])
            where = " and ".join(", ".join(f"{at:,}" for at in dearer).rsplit(", ", 1))
            places: Cell = (lambda cell: cell.startswith("at every length ")) if every else where
            count = f"{len(dearer)} of {len(one['ratios'])}"
            lost.append([titles[key.partition(":")[0]], count, pair, places, _example(record, key)])
    return {
        "models": models,
        "crossovers": crossovers,
        "slopes": slopes,
        "losses": lost,
        "failed": [
            [
                one["model"], f"{one['context_length']:,}", str(one["batch"]), one["probe"],
                one["sweep"].replace("_", " "), one["status"], one["error"] or "",
            ]
            for one in record["failures"]
        ],
        "money": _money(record, names),
        "latency": [
            [names[label], f"{length:,}", lambda c, v=found[0]: is_quantity(c, v),
             lambda c, v=found[1]: is_quantity(c, v), "decode"]
            for label in names
            for length, own in sorted(rows.points(label, "decode", "batch_1").items())
            if (found := _tails(own, record["latencies"][label]["decode"].get(str(length))))
        ],
        "use": _use(record, rows, names),
        "batches": _batches(rows, names, anything),
    }  # fmt: skip


def _crossover(
    key: str, one: Record, titles: dict[str, str], names: dict[str, str], several: bool
) -> list[Cell]:
    length: Cell = "none in range" if one.get("none_in_range") else "not decided"
    ends: Cell = ""
    if "length" in one:
        low, high = one["low"], one["high"]
        length = lambda cell: is_length(cell, one["length"])  # noqa: E731
        ends = "one value per point, no interval"
        if low is not None:
            ends = lambda cell: all(map(is_length, cell.split(" to "), (low, high)))  # noqa: E731
    elif one["kind"] == "missing":
        length = ""
    lengths = [f"{int(at):,}" for at in one.get("ratios", {})]
    span = " to ".join(dict.fromkeys((lengths[0], lengths[-1]))) if lengths else ""
    pair = [" / ".join(names[label] for label in one["models"])] if several else []
    note = one["reason"].partition("tokens: ")[2]
    if one["kind"] == "missing":
        note = one["reason"]
    else:
        note = f"{names[one['models'][0]]}: {note}"
    count = str(one["multiplicity"]) if one["kind"] != "missing" else ""
    sweep = one["sweep"].replace("_", " ")
    return [titles[key.partition(":")[0]], length, count, ends, span, sweep, *pair, note]


def _linear(one: Record) -> str:
    share, local = one["bend"], one["local"]
    if share is None or share["low"] is None:
        assert one["linear"] is False
        return "not claimed"
    straight = -0.12 < share["low"] <= 1e-9 and -1e-9 <= share["high"] < 0.12
    straight = straight and local["low"] < 1.15 and local["high"] > 0.85 and one["low"] > 0.01
    assert one["linear"] is straight
    bent = share["low"] > 0 or share["high"] < 0
    return "yes" if straight else "no" if bent else "not claimed"


def _shape(weights: dict[str, float] | None) -> str:
    if weights is None:
        return "too few points to tell"
    best = max(weights, key=weights.__getitem__)
    if weights[best] <= 0.5:
        return "undecided"
    return f"{best.replace('^2', '²')} ({100 * weights[best]:.0f} %)"


def _example(record: Record, key: str) -> Cell:
    """`at 512 tokens 20.1 ms against 12.0 ms for GPT, 1.7 times as much`."""

    def holds(cell: str) -> bool:
        found = re.match(
            r"at ([\d,]+) tokens ([\d.,]+ \S+) against ([\d.,]+ \S+) for .*, ([\d.,]+) times", cell
        )
        if not found:
            return False
        entry, length = record["crossovers"][key], int(found[1].replace(",", ""))
        points = record["curves"][key.partition(":")[0]]["points"]
        values = [
            next(one["value"] for one in points[label] if one["length"] == length)
            for label in entry["models"]
        ]
        ratio = entry["ratios"][str(length)]["value"]
        apart = "measured side by side" in cell
        same = rounds(found[4], values[0] / values[1], 2)
        return (
            is_quantity(found[2], values[0])
            and is_quantity(found[3], values[1])
            and rounds(found[4], ratio, 2)
            and (apart or same)
        )

    return holds


def _money(record: Record, names: dict[str, str]) -> list[list[Cell]]:
    told, lines = record["costs"], []
    for probe, doing in (("train", "training"), ("prefill", "reading"), ("decode", "writing")):
        for label, name in names.items():
            for point in record["curves"].get(probe, {}).get("points", {}).get(label, []):
                if point["status"] != "ok":
                    continue
                each = point["value"] / (1 if probe == "decode" else point["length"])
                one = told[label][probe][str(point["length"])]
                assert one["seconds_per_token"] == pytest.approx(each)
                assert one["pages_per_hour"] == pytest.approx(3600 / each / told["tokens_per_page"])
                line: list[Cell] = [
                    name,
                    f"{point['length']:,}",
                    _digits(3600 / each / told["tokens_per_page"], 3),
                ]
                if told["price_per_hour"]:
                    paid = told["price_per_hour"] / 3600 * each * 1e6
                    assert one["per_million_tokens"] == pytest.approx(paid)
                    line.append(_digits(paid, 3, f" {told['currency']}"))
                lines.append([*line, doing])
    return lines


def _counted(own: dict[int, Any]) -> list[Any]:
    rows = [row for _, row in sorted(own.items())]
    if any(row["status"] != "ok" for row in rows):
        return []
    return [row for row in rows if not Csv.busy(row)]


def _tails(own: dict[int, Any], told: Record | None) -> tuple[float, float] | None:
    tokens: list[float] = []
    for row in _counted(own):
        each = len(row["token_seconds"]) // len(row["seconds"])
        marks = row["disturbed"] or [False] * len(row["seconds"])
        for place, bad in enumerate(marks):
            tokens += [] if bad else row["token_seconds"][place * each : (place + 1) * each]
    if not tokens:
        assert told is None
        return None
    found = percentile(tokens, 50), percentile(tokens, 95)
    assert told is not None and list(told.values()) == pytest.approx(list(found))
    return found


def _pace(own: list[Any], parts: Callable[[Any], float]) -> float:
    """Seconds of one part: lower quartile of lower quartiles."""
    return quartile(
        [quartile([one / parts(row) for one in Csv.quiet(row, row["seconds"])]) for row in own]
    )


def _use(record: Record, rows: Csv, names: dict[str, str]) -> list[list[Cell]]:
    lines: list[list[Cell]] = []
    for probe in ("train", "prefill", "ttft", "decode"):
        for label, name in names.items():
            for length, own in sorted(rows.points(label, probe, "batch_1").items()):
                if any(row["status"] != "ok" for row in own.values()):
                    continue
                cells: list[Cell] = ["disturbed"] * 3
                if left := _counted(own):
                    cells = []
                    for work in ("flops", "flops_dense"):
                        peak = left[0]["peak_flops"]
                        if not peak:
                            cells.append("none")
                            continue
                        seconds = _pace(left, lambda row: 1.0)
                        share = float(left[0][work]) / seconds / float(peak)
                        known = record["use"][label][probe][str(length)]
                        assert share == pytest.approx(
                            known["mfu_dense" if work == "flops_dense" else "mfu"]
                        )
                        cells.append(f"{100 * share:.1f} %")
                    joules = [float(row["energy_joules"]) for row in left if row["energy_joules"]]
                    tokens = 1 if probe == "decode" else length
                    energy = quartile([one / tokens for one in joules]) if joules else None
                    assert record["use"][label][probe][str(length)]["joules_per_token"] == energy
                    cells.append(_digits(energy, 3, " J", "unavailable"))
                lines.append([name, f"{length:,}", *cells, probe])
    return lines


def _batches(rows: Csv, names: dict[str, str], anything: Cell) -> list[list[Cell]]:
    lines: list[list[Cell]] = []
    for probe in ("max_batch", "max_batch_train"):
        for label, name in names.items():
            for length, own in sorted(rows.points(label, probe, "batch_1").items()):
                tokens = 1 if probe == "max_batch" else length
                left = _counted(own)
                rate: Cell = "disturbed"
                if left:
                    pace = _pace(left, lambda row: float(row["max_batch"]) * tokens)  # noqa: B023
                    rate = _digits(1 / pace, 3)
                most = sorted(int(row["max_batch"]) for row in own.values())
                count = " to ".join(dict.fromkeys((f"{most[0]:,}", f"{most[-1]:,}")))
                tries = str(len(next(iter(own.values()))["tried"]))
                shown = probe.replace("_", " ")
                lines.append([name, f"{length:,}", count, rate, tries, shown])
    return lines


def check_sentences(record: Record, rows: Csv) -> Iterator[str]:
    """Numbers in sentences are numbers of the record; those about one measure, of that one."""
    told = record["page"]
    names = [row[0] for row in told["tables"]["models"]["rows"]] + list(record["models"])
    names = sorted(names, key=len, reverse=True)
    for chart in told["charts"]:
        pool = pool_of(record, [chart["key"]])
        mine = [one for at, one in record["crossovers"].items()
                if at.partition(":")[0] == chart["key"]]  # fmt: skip
        pool.others += [one.get("multiplicity", 0) for one in mine]
        pool.tokens += [float(one[end]) for one in chart["crossings"] for end in ("low", "high")
                        if one[end]]  # fmt: skip
        texts = [chart["caption"], chart["alt"].removeprefix(chart["title"])]
        texts += [one["text"] for one in chart["undecided"]]
        for text in texts:
            for number in pool.unknown(text, names):
                yield f"{chart['key']}: {number!r} in {text!r}"
    pool = pool_of(record)
    pool.tokens += [one[end] for chart in told["charts"] for one in chart["crossings"]
                    for end in ("low", "high") if one[end]]  # fmt: skip
    pool.tokens += list((told["ranges"] or {"ticks": []})["ticks"])
    found = list(record["crossovers"].values())
    compared = [one for one in found if one["kind"] != "missing"]
    pool.others += [len(compared), len({tuple(one["models"]) for one in found})]
    pool.others += [sum("above" in {r["side"] for r in one["ratios"].values()} for one in compared)]
    pool.others += [one["multiplicity"] for one in compared]
    kinds: dict[tuple[str, str], int] = defaultdict(int)
    for key, one in record["crossovers"].items():
        kinds[key.partition(":")[0], one["kind"]] += 1
    pool.others += list(kinds.values())
    for one in record["models"].values():
        pool.others += [one.get("val_loss", 0), one.get("bits_per_byte", 0)]
        pool.tokens += one.get("gradients_cut_every", [])
        pool.others += [len(one.get("trainings", []))]
    costs = [one for label in record["models"] for probe in record["costs"][label].values()
             for one in probe.values()]  # fmt: skip
    pages = [float(f"{one['pages_per_hour']:.2g}") for one in costs]
    pool.others += pages
    pool.others += [float(f"{one['per_million_tokens']:.3g}") for one in costs
                    if "per_million_tokens" in one]  # fmt: skip
    pool.others += [one["per_million_tokens"] for one in costs if "per_million_tokens" in one]
    pool.others += [record["costs"]["price_per_hour"] or 0]
    pool.others += [w for by in record["slopes"].values() for one in by.values()
                    for w in (one["aicc"] or {}).values()]  # fmt: skip
    pool.exact |= {"700 tokens", "500", "700"}
    quiet = record["machine"]["quiet"] or {}
    pool.others += list(quiet.values())
    weights = re.compile(r"\((\d+) %\)")
    texts = [told["headline"], told["quiet"], *(t for b in told["story"] for t in b["paragraphs"])]
    texts += [one[end] for one in (told["ranges"] or {"tracks": []})["tracks"]
              for end in ("what", "verdict")]  # fmt: skip
    texts += [told["tables"]["losses"]["caption"], told["facts"][0]]
    known = {f"{100 * one:.0f}" for by in record["slopes"].values() for s in by.values()
             for one in (s["aicc"] or {}).values()}  # fmt: skip
    machine = [record["machine"]["device"], *record["machine"]["versions"].values()]
    for text in texts:
        if set(weights.findall(text)) - known:
            yield f"weights of {text!r}"
        for number in pool.unknown(weights.sub("", text), [*names, *machine]):
            yield f"{number!r} in {text!r}"
    busy = re.search(r"repeats the ([\d,]+) disturbed", told["headline"])
    if busy and busy[1] != f"{quiet['disturbed']:,}":
        yield f"headline: {told['headline']}"
    if f"All {len(rows.rows):,} rows" not in told["raw"] and len(rows.rows) > 1:
        yield told["raw"]


def check_machine(record: Record, rows: Csv) -> Iterator[str]:
    """The line about the machine counts rows; facts are those of the machine."""
    machine, told = record["machine"], record["page"]
    done = [row for row in rows.rows if row["status"] == "ok"]
    quiet = machine["quiet"]
    if quiet != (
        {
            "finished": len(done),
            "measured_again": sum(int(row["visit"]) > 0 for row in done),
            "repetitions": sum(int(row["visit"]) for row in done),
            "disturbed": sum(map(Csv.busy, done)),
            "failed": len(rows.rows) - len(done),
        }
        if done and all(row["disturbed"] for row in done)
        else None
    ):
        yield f"quiet: {quiet}"
    expected = {machine["device"], f"threads: {machine['threads']}", machine["precision"],
                f"commit {machine['commit'][:12]}", machine["date"][:10]}  # fmt: skip
    if not expected <= set(told["facts"]):
        yield f"facts: {told['facts']}"
    memory = re.search(r", (.*) of memory$", told["method"]["facts"]["Device"])
    if not memory or not is_quantity(memory[1], machine["memory_bytes"]):
        yield told["method"]["facts"]["Device"]
    shown = told["method"]["facts"]
    pairs = {"Threads": "threads", "Precision": "precision", "Commit": "commit"}
    if any(shown[name] != machine[key] for name, key in pairs.items()):
        yield f"method: {shown}"
    if machine["processes_of_a_point"][1] > 1:
        few, many = machine["processes_of_a_point"]
        count = str(many) if few == many else f"{few} to {many}"
        if f"measured in {count} fresh processes" not in told["method"]["text"]:
            yield told["method"]["text"]


def problems(shown: Shown, record: Record, rows: Csv) -> Iterator[str]:
    """What does not fit, one sentence each; also where the record has lost its form."""
    for check in (
        lambda: check_texts(shown, record),
        lambda: check_charts(shown, record, rows),
        lambda: check_ratios(record),
        lambda: check_findings(record, rows),
        lambda: check_tracks(shown, record),
        lambda: check_tables(record, rows),
        lambda: check_sentences(record, rows),
        lambda: check_machine(record, rows),
    ):
        try:
            yield from check()
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
                ValueError) as error:  # fmt: skip
            yield f"{type(error).__name__}: {error}"
