"""Every cell of the tables of a report's page, from the numbers of crossover.json and rows.csv."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probes.analysis.metrics import BY_KEY
from tests.probes.report.page_reading import (
    Csv,
    Record,
    is_length,
    is_quantity,
    percentile,
    quartile,
    rounds,
)


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
