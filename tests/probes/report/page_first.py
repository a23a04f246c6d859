"""The first screen and the table of all points, from the numbers of crossover.json.

The curve that a prediction follows is fitted here once more, without the code that made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tests.probes.report.page_reading import Record, is_quantity, leaves, rounds

WORDS_PER_TOKEN = 500 / 700
DECIMAL = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
KINDS = ("reading", "writing", "keeping")


def check_points(record: Record) -> Iterator[str]:
    """Every point of every curve is one line of the table."""
    told = record["page"]
    names = dict(zip(record["models"], [row[0] for row in told["tables"]["models"]["rows"]],
                     strict=False))  # fmt: skip
    lines = iter(told["tables"]["points"]["rows"])
    for key, curve in record["curves"].items():
        said = next(one for one in told["charts"] if one["key"] == key)["points"]
        for label, points in curve["points"].items():
            for point, words in zip(points, said[label], strict=True):
                title, length, value, half, count, name = next(lines)
                expected = (curve["title"], f"{point['length']:,}", words["text"], names[label])
                if (title, length, value, name) != expected:
                    yield f"points: {title} {length} {value} {name}, expected {expected}"
                ends = half.split(" to ") if half else []
                known = point["middle_half"] or []
                if not _are(ends, known):
                    yield f"points: {half} of {known}"
                repeats = f"{point['repeats']:,} in {point['processes']:,}"
                if count != (repeats if known else ""):
                    yield f"points: {count}, expected {repeats}"
    if list(lines):
        yield "points: more lines than points"


def _are(texts: list[str], values: list[float]) -> bool:
    return len(texts) == len(values) and all(map(is_quantity, texts, values))


def check_feeling(record: Record) -> Iterator[str]:
    """The three numbers are those of the record, which follow from its curves."""
    told, document = record["page"], record["document"]
    if told["first"] is not None and told["first"] not in record["curves"]:
        yield f"no chart {told['first']}"
    if (told["feeling"] is None) != (document is None):
        yield "the first screen has other numbers than the record"
    if document is None:
        return
    if f"{document['length']:,} tokens" not in told["feeling"]["note"]:
        yield told["feeling"]["note"]
    if told["feeling"]["title"] != f"With a document of {round(document['length'] / 700)} pages":
        yield told["feeling"]["title"]
    kinds = [kind for kind in KINDS if kind in document]
    for kind, card in zip(kinds, told["feeling"]["cards"], strict=True):
        found = document[kind]
        most = max(
            (_shown(kind, one["value"]) for one in found.values() if one["value"]), default=0
        )
        for mark, (label, one) in zip(card["marks"], found.items(), strict=True):
            where = f"{kind} {label}: {mark['text']!r} {mark['note']!r}"
            if mark["label"] != label or label not in record["models"]:
                yield f"{where} of {mark['label']}"
            share = _shown(kind, one["value"]) / most if one["value"] else None
            if share != pytest.approx(mark["share"]):
                yield f"{where}: bar {mark['share']}"
            yield from _check_mark(where, kind, mark, one)
            yield from _check_value(where, kind, label, one, record)


def _shown(kind: str, value: float) -> float:
    return WORDS_PER_TOKEN / value if kind == "writing" else value


def _is(kind: str, text: str, value: float) -> bool:
    """Whether a text is that number of the record."""
    if kind == "writing":
        return rounds(text, WORDS_PER_TOKEN / value, 3)
    number, _, unit = text.partition(" ")
    if kind == "keeping":
        return unit in DECIMAL and rounds(number, value / DECIMAL[unit], 3)
    return is_quantity(text, value)


def _check_mark(where: str, kind: str, mark: Any, one: Any) -> Iterator[str]:
    text, note = mark["text"], mark["note"]
    if one["how"] in ("measured", "calculated"):
        if note != one["how"] or not _is(kind, text, one["value"]):
            yield where
    elif one["how"] == "predicted":
        ends = re.fullmatch(r"predicted, (.*) to (.*)", note)
        known = [one["low"], one["high"]]
        known = known[::-1] if kind == "writing" else known
        good = ends and all(_is(kind, *pair) for pair in zip(ends.groups(), known, strict=True))
        if not good or not _is(kind, text.removeprefix("about "), one["value"]):
            yield where
        if not text.startswith("about ") or not one["low"] <= one["value"] <= one["high"] / 2:
            yield f"{where}: {known}"
    elif one["how"] == "unknown":
        found = re.fullmatch(r"(.*) after ([\d,]+) tokens", note)
        is_reached = found and _is(kind, found[1], one["reached"])
        is_right = is_reached and found and found[2] == f"{one['longest']:,}"
        if (one["reached"] is None) != (text == "not measured") or (note and not is_right):
            yield where
    elif one["how"] != "failed" or re.search(r"\d", text + note):
        yield where


def _check_value(where: str, kind: str, label: str, one: Any, record: Record) -> Iterator[str]:
    """A value is that of the curve, or of the curve carried on."""
    length = record["document"]["length"]
    all_points = record["curves"].get(one["measure"], {"points": {}})["points"].get(label, [])
    good = {point["length"]: point["value"] for point in all_points if point["status"] == "ok"}
    if (one["longest"], one["reached"]) != (
        max(good, default=None),
        good.get(max(good, default=0)),
    ):
        yield f"{where}: longest {one['longest']}"
    if (one["how"] == "measured") != (length in good):
        yield f"{where}: {one['how']}"
    if one["how"] == "measured" and one["value"] != good.get(length):
        yield f"{where}: {one['value']} was not measured"
    if one["how"] == "failed" and one["status"] not in {
        point["status"] for point in all_points if point["length"] == length
    }:
        yield f"{where}: {one['status']}"
    if one["how"] in ("unknown", "failed") and one["value"] is not None:
        yield f"{where}: a value of what is {one['how']}"
    if one["how"] not in ("predicted", "calculated"):
        return
    states = record["curves"]["state"]["points"][label]
    grows = len({point["value"] for point in states if point["status"] == "ok"}) > 1
    powers = 2 if kind == "keeping" else 1 + grows + (kind == "reading")
    if one["value"] != pytest.approx(_carried_on(good, length, powers), rel=2e-3):
        yield f"{where}: {one['value']} is not where the curve leads"


def _carried_on(good: dict[int, float], length: int, powers: int) -> float:
    """The polynomial with positive coefficients of least relative error, at `length`."""
    at = np.array(sorted(good), dtype=float)
    values = np.array([good[int(one)] for one in at])
    best = (np.inf, 0.0)
    for count in range(1, powers + 1):
        for chosen in combinations(range(powers), count):
            design = np.stack([(at / 1e3) ** power for power in chosen], axis=1) / values[:, None]
            found, *_ = np.linalg.lstsq(design, np.ones(len(at)), rcond=None)
            error = float(np.square(design @ found - 1).sum())
            if (found >= 0).all() and error < best[0] - 1e-18:
                terms = [(length / 1e3) ** power for power in chosen]
                best = (error, float(found @ np.array(terms)))
    return best[1]


def numbers_of(record: Record) -> list[float]:
    """Numbers that the sentences about what was compared may have."""
    document = record["document"] or {"length": 0}
    found: list[float] = [document["length"]]
    for one in record["models"].values():
        found += [float(f"{(one['parameters'] or 0) / 1e6:.3g}"), one.get("trained_tokens") or 0]
    longest = [value for path, value in leaves(document) if path[-1] == "longest" and value]
    return [*found, *longest, round(document["length"] / 700), 500, 700, 2]
