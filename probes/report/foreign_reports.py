"""Reports of others, as far as they can be believed: their digest is that of their content.

Nothing else of what they say is: numbers that are none, names without end and what a terminal would
obey are not taken over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from core.errors import UserError, shown
from core.parsing import read_object
from probes.analysis.metrics import BY_KEY

NAME = "crossover.json"
MOST = 1000
"""Crossovers of a report: measures, times pairs of models."""
LONGEST = 1e12
"""Tokens of a crossover that is believed."""


@dataclass(frozen=True)
class Foreign:
    """A report that was read, and whose digest is right."""

    path: Path
    content: dict[str, Any]

    @property
    def machine(self) -> dict[str, Any]:
        """On what it was measured, as it says."""
        return fields_of(self.content.get("machine"))

    @property
    def digest(self) -> str:
        return str(self.content.get("digest", ""))


def digest_of(content: Mapping[str, Any]) -> str:
    """64 hex digits over all of a summary but its `digest`, however it is spaced and ordered."""
    plain = json.loads(json.dumps({key: content[key] for key in content if key != "digest"}))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_reports(places: Iterable[str]) -> tuple[list[Foreign], list[str]]:
    """The reports at these paths, of `crossover.json` or of the folder it lies in; and, a message
    each, those that are left out: unreadable ones, and those whose digest is wrong."""
    found: list[Foreign] = []
    problems = []
    for place in places:
        path = Path(place)
        path = path / NAME if path.is_dir() else path
        try:
            content = read_object(path)
        except UserError as error:
            problems.append(f"{error}; left out")
            continue
        if not isinstance(content.get("digest"), str):
            problems.append(f"{path}: has no digest, so nothing says that it is whole; left out")
        elif content["digest"] != digest_of(content):
            problems.append(f"{path}: its digest is not that of its content; left out")
        elif not isinstance(content.get("crossovers"), dict):
            problems.append(f"{path}: has no crossovers that this version can read; left out")
        elif len(content["crossovers"]) > MOST:
            count = len(content["crossovers"])
            problems.append(f"{path}: {count:,} crossovers, more than {MOST:,}; left out")
        elif content["digest"] in [one.digest for one in found]:
            problems.append(f"{path}: the same report again; left out")
        else:
            found.append(Foreign(path, content))
    return found, problems


def crossings(reports: Iterable[Foreign]) -> Iterator[dict[str, Any]]:
    """From which length on the recurrent model is the cheaper one, machine by machine: an entry for
    each measure of each report that decides it, with the interval, tokens, or that there is none.
    """
    for report in reports:
        machine = report.machine
        for key, said in fields_of(report.content.get("crossovers")).items():
            entry, name = fields_of(said), str(key).partition(":")[0]
            models = labels(entry.get("models"))
            length, low, high = (_tokens(entry.get(end)) for end in ("length", "low", "high"))
            none = entry.get("none_in_range") is True
            if models is None or name not in BY_KEY or (length is None and not none):
                continue
            if length is None or low is None or high is None or not low <= length <= high:
                low = high = None
            yield {
                "measure": name,
                "models": [shown(label, 60) for label in models],
                "device": _said(machine.get("device"), 60),
                "threads": _said(machine.get("threads"), 20),
                "precision": _said(machine.get("precision"), 20),
                "commit": _said(machine.get("commit"), 12),
                "date": _said(machine.get("date"), 10),
                "length": length,
                "low": low,
                "high": high,
                "none_in_range": none,
                "kind": shown(entry.get("kind"), 20),
                "report": str(report.path),
                "digest": report.digest,
            }


def _said(value: Any, most: int) -> str:
    """The first letters of a word or number that can be printed; nothing of anything else."""
    return shown(str(value)[:most], most) if type(value) in (str, int) else ""


def _tokens(value: Any) -> float | None:
    found = number(value)
    return found if found is not None and 1 <= found <= LONGEST else None


def fields_of(value: Any) -> dict[str, Any]:
    """A mapping as it is, and nothing of anything else."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    return float(value) if type(value) in (int, float) and isfinite(value) else None


def labels(value: Any) -> tuple[str, str] | None:
    """The names of a recurrent model and one that attends, or None for anything else."""
    if isinstance(value, list) and len(value) == 2 and all(type(one) is str for one in value):
        return value[0], value[1]
    return None
