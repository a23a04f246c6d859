"""What can be wrong with a group of probe rows and trainings: each kind changes a sound one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from probes.rows import SWEEPS, Row
from tests.faults.report_groups import (
    HOSTILE,
    KINDS,
    MARKUP,
    NAMES,
    Group,
    encoded,
    shown,
    sound_row,
    sound_summary,
    spoil,
)

Damage = Callable[[Group], str]
DAMAGES: list[Damage] = []
"""Each changes a sound group and says how."""


def damage(times: int = 1) -> Callable[[Damage], Damage]:
    """Register a kind of damage; one of many forms counts several `times`."""

    def add(function: Damage) -> Damage:
        DAMAGES.extend([function] * times)
        return function

    return add


# ---- rows ----------------------------------------------------------------------------------------


@damage(12)
def one_value(group: Group) -> str:
    """One field of one row, another value."""
    place = group.draw.randrange(len(group.lines))
    values = json.loads(group.lines[place])
    name = group.draw.choice(sorted(one.name for one in fields(Row)))
    values[name] = group.draw.choice(HOSTILE)
    spoil(group, place, encoded(values))
    return f"row with {name}={shown(values[name])}"


@damage(3)
def one_value_of_all(group: Group) -> str:
    """The same value in every row."""
    name = group.draw.choice(sorted(one.name for one in fields(Row)))
    value = group.draw.choice(HOSTILE)
    group.lines = [encoded(json.loads(line) | {name: value}) for line in group.lines]
    group.kept, group.goes_on = [], False
    return f"every row with {name}={shown(value)}"


@damage(3)
def one_inner_value(group: Group) -> str:
    """A value within one of the objects and lists of a row."""
    place = group.draw.randrange(len(group.lines))
    values = json.loads(group.lines[place])
    name = group.draw.choice(["config", "device", "versions", "backends", "options", "memory"])
    key = group.draw.choice([*values.get(name, {}), "window", "a", *NAMES])
    values[name] = {**values.get(name, {}), key: group.draw.choice(HOSTILE)}
    spoil(group, place, encoded(values))
    return f"row with {name}.{shown(key)}={shown(values[name][key])}"


@damage(3)
def names_of_all(group: Group) -> str:
    """A model, title, size or device called something hostile, soundly."""
    name, odd = (
        group.draw.choice(["model", "title", "size", "commit"]),
        group.draw.choice(NAMES),
    )

    def change(line: bytes) -> bytes:
        values = json.loads(line)
        return line if values["recurrent"] else encoded(values | {name: odd})

    group.lines = [change(line) for line in group.lines]
    group.summaries = [change(one) for one in group.summaries]
    group.kept = [line for line in group.lines if odd.isprintable()]
    group.goes_on = odd.isprintable()
    return f"model with {name}={shown(odd)}"


@damage(4)
def edges(group: Group) -> str:
    """Numbers of any size that a row may hold."""
    limits = {
        "context_length": 12, "batch": 12, "parameters": 15, "peak_bytes": 18, "state_bytes": 18,
        "flops": 30, "flops_dense": 30,
    }  # fmt: skip

    def change(line: bytes) -> bytes:
        values = json.loads(line)
        for name, digits in limits.items():
            if group.draw.random() < 0.5:
                values[name] = int(10 ** group.draw.uniform(0, digits))
        scale = 10 ** group.draw.uniform(-11, 8)
        values["seconds"] = [scale * (1 + group.draw.random()) for _ in range(3)]
        values["token_seconds"] = [10 ** group.draw.uniform(-11, 8)] * len(values["token_seconds"])
        values["peak_flops"] = 10 ** group.draw.uniform(-29, 29)
        return encoded(values)

    group.lines = [change(line) for line in group.lines]
    group.kept = []  # two may have become one point
    return "numbers at the edges of what rows may hold"


@damage()
def missing_and_unknown(group: Group) -> str:
    """A field less, or one that nobody knows."""
    place = group.draw.randrange(len(group.lines))
    values = json.loads(group.lines[place])
    if group.draw.random() < 0.5:
        name = group.draw.choice(["seconds", "device", "probe", "batch", "config"])
        del values[name]
    else:
        name = group.draw.choice(["extra", "__class__", "", MARKUP])
        values[name] = 1
    spoil(group, place, encoded(values))
    return f"row with {shown(name)} missing or unknown"


@damage()
def lists_out_of_step(group: Group) -> str:
    """Lists of which each should have an entry for every repeat."""
    place = group.draw.randrange(len(group.lines))
    values = json.loads(group.lines[place])
    name = group.draw.choice(["disturbed", "cpu_seconds", "seconds", "waited", "token_seconds"])
    item: Any = name == "disturbed" or 0.1
    values[name] = [item] * group.draw.choice([1, 2, 4, 100])
    odd = name != "token_seconds"
    if odd:
        spoil(group, place, encoded(values))
    return f"row with {len(values[name])} entries of {name}"


LINES = {
    "null": b"null", "a number": b"3", "a list": b"[1, 2]", "a text": b'"a"', "nothing": b"",
    "half an object": b'{"probe": "tr', "100,000 lists": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000, "not UTF-8": b'{"probe": "\xff\xfe"}',
    "a name twice": b'{"probe": "train", "probe": "train"}', "NUL": b"\0" * 100,
    "a number of 10,000 digits": b'{"seed": ' + b"9" * 10_000 + b"}",
    "a million empty lists": b'{"seconds": [' + b"[]," * 1_000_000 + b"[]]}",
    "code": b"__import__('os').system('touch executed')",
}  # fmt: skip


@damage(4)
def a_line(group: Group) -> str:
    """A line that is no row at all."""
    kind = group.draw.choice(sorted(LINES))
    group.lines.insert(group.draw.randrange(len(group.lines)), LINES[kind])
    return f"a line: {kind}"


@damage()
def a_long_line(group: Group) -> str:
    """100 MB without a newline."""
    filling = group.draw.choice([b"a", b"[", b"1,", b"\0"])
    group.lines.insert(3, filling * (100_000_000 // len(filling)))
    return f"a line of 100 MB of {filling!r}"


@damage()
def many_lines(group: Group) -> str:
    """Far more lines that are no rows than those that are."""
    group.lines += [group.draw.choice([b"", b"{}", b"null"])] * group.draw.choice([20, 3_000_000])
    group.goes_on = len(group.lines) < 1000
    return f"{len(group.lines):,} lines"


@damage(2)
def other_ends(group: Group) -> str:
    """Ends of lines, and marks before the first, as other programs write them."""
    kind = group.draw.choice(["CRLF", "no newline at the end", "a byte order mark"])
    if kind == "CRLF":
        group.lines = [line + b"\r" for line in group.lines]
    elif kind == "a byte order mark":
        spoil(group, 0, b"\xef\xbb\xbf" + group.lines[0])
    return kind


@damage()
def swapped_rows(group: Group) -> str:
    """Rows of a model that contradict each other, or none that finished."""
    kind = group.draw.choice(["status", "recurrent", "title", "process", "visit", "sweep"])
    values: dict[str, list[Any]] = {
        "status": ["oom", "timeout", "error", "predicted_oom"], "recurrent": [True, False, None],
        "title": ["A", "B"], "process": [0, 1, 10**9], "visit": [0, 5], "sweep": [*SWEEPS],
    }  # fmt: skip
    group.lines = [
        encoded(json.loads(line) | {kind: group.draw.choice(values[kind])}) for line in group.lines
    ]
    group.kept, group.goes_on = [], kind not in ("recurrent",)
    return f"rows that differ in {kind}"


@damage()
def many_models(group: Group) -> str:
    """More than anybody compares; or that many without a single point."""
    count, status = group.draw.choice([60, 300]), group.draw.choice(["ok", "oom"])
    group.lines = [
        encoded(
            sound_row(dataclasses.replace(one, model=name, title=name), "train", 64, status=status)
        )
        for n in range(count)
        for one, name in ((one, f"{one.model}-{n}") for one in KINDS)
    ]
    group.kept, group.goes_on = [], False
    return f"{2 * count} models, {status}"


@damage()
def many_lengths(group: Group) -> str:
    """Many context lengths."""
    lengths = sorted({int(2 ** group.draw.uniform(0, 40)) for _ in range(100)})
    group.lines = [
        encoded(
            sound_row(one, "train", at) | {"seconds": [1.0]} | {"disturbed": [], "cpu_seconds": []}
        )
        for at in lengths
        for one in KINDS
    ]
    group.kept = list(group.lines)
    return f"{len(lengths)} context lengths"


# ---- trainings -----------------------------------------------------------------------------------


@damage(8)
def one_fact(group: Group) -> str:
    """One field of one summary, or of all."""
    values = json.loads(group.summaries[0])
    name = group.draw.choice(sorted(values))
    value = group.draw.choice(HOSTILE)
    every = group.draw.random() < 0.3
    group.summaries = [
        encoded(json.loads(one) | {name: value}) if every or not place else one
        for place, one in enumerate(group.summaries)
    ]
    group.goes_on = name != "recurrent"
    return f"{'every' if every else 'a'} summary with {name}={shown(value)}"


@damage(2)
def a_summary(group: Group) -> str:
    """A summary that is none."""
    kind = group.draw.choice(sorted(LINES))
    group.summaries[group.draw.randrange(len(group.summaries))] = LINES[kind]
    return f"a summary: {kind}"


@damage(3)
def trainings_only(group: Group) -> str:
    """A scaling study of numbers of any size, without a row."""
    group.lines, group.kept = [], []
    group.summaries = []
    for one in KINDS:
        for place in range(group.draw.choice([3, 8])):
            changes = {
                "parameters": int(10 ** group.draw.uniform(0, 15)),
                "tokens": int(10 ** group.draw.uniform(0, 12)),
                "forward_flops": int(10 ** group.draw.uniform(0, 30)),
                "val_loss": 10 ** group.draw.uniform(-9, 4),
            }
            some = dict(group.draw.sample(sorted(changes.items()), group.draw.randrange(5)))
            group.summaries.append(encoded(sound_summary(one, place, **some)))
    return "a scaling study of numbers at the edges"


CONFIGURATIONS = {
    "an anchor bomb": "".join(
        f"{n}: &{n} [{','.join([m] * 9)}]\n"
        for m, n in zip(["x", *(f"*{one}" for one in "abcdefg")], "abcdefgh", strict=True)
    )
    + "model: {target: *h}\n",
    "a tag": f"model: {{target: !!python/object/apply:os.system ['touch {MARKUP}']}}",
    "100,000 lists": "[" * 100_000,
    "a circle": "model: &a {target: *a}",
    "another class": "model: {target: os.system}",
    "no text": "model: {target: 3}",
    "a class of ours that is none": "model: {target: models.meta.json.loads}",
    "nothing": "",
}  # fmt: skip


@damage(2)
def a_configuration(group: Group) -> str:
    """A summary of before models said what they are, beside a configuration that cannot."""
    kind = group.draw.choice(sorted(CONFIGURATIONS))
    values = json.loads(group.summaries[0])
    for name in ("recurrent", "title", "options"):
        del values[name]
    group.summaries[0] = encoded(values)
    group.goes_on = False  # a scaling study must know
    group.words.append(f"+configuration={kind}")
    return f"a configuration: {kind}"


# ---- what stands in a file's place ---------------------------------------------------------------

PLACES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to(path.with_name("nowhere")),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a kernel's file": lambda path: path.symlink_to("/proc/kmsg"),
    "a file without an end": lambda path: _sparse(path, 1 << 40),
    "an empty file": lambda path: path.write_bytes(b""),
}
FILES = ("probes.jsonl", "run-0/summary.json", "run-0/config.yaml")


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def replace(group: Group) -> str:
    """Something else in a file's place."""
    file, kind = group.draw.choice(FILES), group.draw.choice(sorted(PLACES))
    if file.endswith(".yaml"):
        a_configuration(group)
        group.words.pop()
    group.write()
    path = group.folder / file
    path.unlink(missing_ok=True)
    PLACES[kind](path)
    if file == "probes.jsonl":
        group.kept, group.goes_on = [], False
    return f"{kind} as {file}"
