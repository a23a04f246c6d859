"""Whether a page of the report shows what crossover.json and rows.csv hold.

Curves, cells and numbers in sentences are computed here once more, without the code that made them.
`problems` says what does not fit.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import log2

import pytest

from probes.analysis.metrics import BY_KEY
from tests.probes.report.page_first import check_feeling, check_points, numbers_of
from tests.probes.report.page_reading import (
    LABELS,
    Csv,
    Record,
    Shown,
    is_length,
    is_quantity,
    leaves,
    percentile,
    pool_of,
    rounds,
    strings,
)
from tests.probes.report.page_tables import check_tables


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
        internal = path[-1] in ("key", "side", "first", "label") or "arms" in path
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
    pool.others += numbers_of(record)
    pool.tokens += numbers_of(record)
    texts = [told["headline"], told["quiet"], *(t for b in told["story"] for t in b["paragraphs"])]
    texts += [told["pages"], *told["compared"], *(told["feeling"] or {"how": []})["how"]]
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
        lambda: check_points(record),
        lambda: check_feeling(record),
    ):
        try:
            yield from check()
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
                ValueError) as error:  # fmt: skip
            yield f"{type(error).__name__}: {error}"
