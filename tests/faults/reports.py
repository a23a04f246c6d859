"""Rows, summaries and configurations as nobody would write them, given to what reads them back.

Each trial is a group of probe rows and trainings of which something is damaged, foreign or hostile,
and the script that reads it: the report, the planner, or a sweep that goes on. One message, or a
report of the rest; nothing half written, nothing that a page would execute, no sound row lost.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from probes.rows import SWEEPS, Row
from tests.faults.child import Ended, script
from tests.faults.trial import Trial, fault, run

csv.field_size_limit(1 << 30)

MARKUP = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><b id=x>"
NAMES = (
    MARKUP, "$\\frac{$", "a$b$c", "[/red][bold]", ":smile:", "x" * 200, "ü \N{CJK RADICAL SUN}",
    "{{js}}", "=1+1", "../../up", "%s%n{0}", "-", "__proto__", "\N{RIGHT-TO-LEFT OVERRIDE}abc",
)  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    None, "", "3", "nan", "a\x1b[31mb\x07", "a\nb", "\ud800", "x" * 100_000, -1, 0, 1, 2**62, 2**64,
    10**30, -(10**30), 10**400, 0.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), True,
    False, [], [1], [-1.0], [None], [[1]], ["1", 2], [float("nan")] * 3, {}, {"a": 1}, {"": None},
    {"kind": 3}, {"a": {"b": {"c": [1]}}}, [0.1] * 10_000, *NAMES,
)  # fmt: skip
LENGTHS = (64, 128, 256)
PROBES = ("train", "decode")
PARAMETERS = 10_000_000


@dataclass(frozen=True)
class Kind:
    """What rows and summaries say of their model."""

    model: str
    target: str
    title: str
    recurrent: bool


KINDS = (
    Kind("rwkv4", "models.rwkv4.RWKV4", "RWKV-4", recurrent=True),
    Kind("gpt", "models.gpt.GPT", "GPT", recurrent=False),
)


def sound_row(kind: Kind, probe: str, length: int, **changes: Any) -> dict[str, Any]:
    """The fields of a row as a sweep writes them."""
    cost = 0.05 + 1e-4 * length if kind.recurrent else 0.01 + 1e-6 * length**2
    values: dict[str, Any] = {
        **asdict(kind), "probe": probe, "sweep": "batch_1", "size": "tiny",
        "config": {"vocab_size": 256, "n_layer": 2, "n_embd": 64}, "parameters": PARAMETERS,
        "context_length": length, "batch": 1, "status": "ok", "error": None,
        "seconds": [cost, 1.01 * cost, 1.02 * cost], "peak_bytes": 10**6 + length,
        "peak_method": "resident", "state_bytes": 1000 if kind.recurrent else 10 * length,
        "flops": 10**9, "flops_dense": 10**9, "backends": {"wkv": "cpu"}, "precision": "float32",
        "seed": 0, "device": {"kind": "cpu", "name": "X", "threads": 1, "memory_bytes": 2**34},
        "versions": {"torch": "2.13.0"}, "commit": "0123456789abcdef", "load_before": 0.1,
        "started": "2026-01-01T00:00:00+00:00", "command": "python scripts/probe.py",
        "token_seconds": [cost] * 6 if probe == "decode" else [], "disturbed": [False] * 3,
        "cpu_seconds": [cost] * 3, "peak_flops": 1e11, "options": {},
    }  # fmt: skip
    return values | changes


def sound_summary(kind: Kind, place: int = 0, **changes: Any) -> dict[str, Any]:
    """The summary of a training; those of several places differ in compute."""
    tokens = 10**6 * 2**place
    values: dict[str, Any] = {
        **asdict(kind), "name": f"{kind.model}-{place}", "size": "tiny",
        "config": {"vocab_size": 256}, "parameters": PARAMETERS, "steps": 10, "tokens": tokens,
        "forward_flops": 2 * PARAMETERS * tokens, "val_loss": 5.0 * 0.9**place,
        "val_bits_per_byte": 3.0 * 0.9**place, "unigram_entropy": 6.0, "gzip_bits_per_byte": 2.5,
        "xz_bits_per_byte": 2.4, "order_hash": f"{place}", "data_fingerprint": "b",
        "tokens_per_second": 1e4, "precision": "32-true", "packing": "stream", "segment": 0,
        "bptt": "exact", "backends": {"wkv": "cpu"}, "options": {},
    }  # fmt: skip
    return values | changes


@dataclass
class Group:
    """What a trial puts on disk: lines of rows and summaries, as bytes."""

    folder: Path
    draw: random.Random
    lines: list[bytes]
    summaries: list[bytes]
    kept: list[bytes]
    """Lines that are sound, and must be in the report."""
    words: list[str]
    """More of the command line."""
    goes_on: bool = True
    """Whether there must be a report, not only a message."""

    @property
    def rows(self) -> Path:
        return self.folder / "probes.jsonl"

    def write(self) -> None:
        self.folder.mkdir(parents=True)
        if self.lines:
            self.rows.write_bytes(b"\n".join(self.lines) + b"\n")
        for number, content in enumerate(self.summaries):
            run_folder = self.folder / f"run-{number}"
            run_folder.mkdir()
            (run_folder / "summary.json").write_bytes(content)


def encoded(values: Any) -> bytes:
    return json.dumps(values).encode()


def sound(folder: Path, draw: random.Random) -> Group:
    """Two models with rows and trainings, a scaling study in every second one."""
    probes = draw.choice((PROBES[:1], PROBES[:1], PROBES))  # more are drawn in more pictures
    rows = [
        encoded(sound_row(one, probe, length))
        for length in LENGTHS
        for probe in probes
        for one in KINDS
    ]
    places = range(draw.choice((1, 5)))
    summaries = [encoded(sound_summary(one, at)) for one in KINDS for at in places]
    return Group(folder, draw, rows, summaries, list(rows), ["allow_mixed=true"])


Damage = Callable[[Group], str]
DAMAGES: list[Damage] = []
"""Each changes a sound group and says how."""


def damage(times: int = 1) -> Callable[[Damage], Damage]:
    """Register a kind of damage; one of many forms counts several `times`."""

    def add(function: Damage) -> Damage:
        DAMAGES.extend([function] * times)
        return function

    return add


def shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."


def spoil(group: Group, place: int, line: bytes) -> None:
    """Put a damaged line in the place of a sound one."""
    group.kept.remove(group.lines[place])
    group.lines[place] = line


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


# ---- trials --------------------------------------------------------------------------------------


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`count` groups, drawn with `seed`; see `tests.faults.trial`."""
    draw = random.Random(seed)
    order = draw.sample(DAMAGES, len(DAMAGES))
    for number in range(count):
        group = sound(folder / f"{number:04d}" / "group", draw)
        if number % 8 == 7:
            told = replace(group)
        else:
            told = order[number % len(order)](group)
            configuration = [word for word in group.words if word.startswith("+configuration=")]
            group.words = [word for word in group.words if word not in configuration]
            group.write()
            for word in configuration:
                text = CONFIGURATIONS[word.partition("=")[2]]
                (group.folder / "run-0" / "config.yaml").write_text(text)
        reader = "plan" if number % 12 == 5 else "probe" if number % 24 == 10 else "report"
        yield f"{reader}: {told}", READERS[reader](group)


def report(group: Group) -> str | None:
    """Run the report, and look at all that it left."""
    out, before = group.folder.parent / "out", contents(group)
    words = [f"runs=[{group.folder}]", f"out={out}", "wandb.mode=disabled", *group.words]
    ended = run(group.folder.parent / "console", script, "report", words)
    marker = Path("executed")
    problem = fault(ended, marker, refused=False if group.goes_on else None)
    return problem or misprinted(ended) or changed(group, before) or wrong_files(group, out, ended)


def plan(group: Group) -> str | None:
    """Draw measured rows beside a plan."""
    out, before = group.folder.parent / "out", contents(group)
    words = [f"runs=[{group.folder}]", f"out={out}", "lengths=[64,128]", "data.length=64",
             "model=rwkv4", "model.size=tiny", "data.batch_size=1", "machine=a100"]  # fmt: skip
    ended = run(group.folder.parent / "console", script, "plan", words)
    whole = ended.status != 0 or (out / "index.html").is_file()
    return (
        fault(ended, Path("executed"))
        or misprinted(ended)
        or changed(group, before)
        or (None if whole else "no page")
    )


def probe(group: Group) -> str | None:
    """Go on with the group's sweep."""
    words = ["model=rwkv4", "model.size=tiny", "lengths=[16]", "probes=[train]", "sweeps=[batch_1]",
             "repeats=1", "repeat_seconds=0", "remeasure=0", f"runs_dir={group.folder.parent}",
             "group=group", "wandb.mode=disabled", "accelerator=cpu", "threads=1"]  # fmt: skip
    ended = run(group.folder.parent / "console", script, "probe", words)
    problem = fault(ended, Path("executed")) or misprinted(ended)
    if problem or not group.kept:
        return problem
    left = group.rows.read_bytes().splitlines()
    lost = [line for line in group.kept if line not in left]
    return f"{len(lost)} sound rows are lost" if lost else None


READERS: dict[str, Callable[[Group], str | None]] = {
    "report": report, "plan": plan, "probe": probe,
}  # fmt: skip


def misprinted(ended: Ended) -> str | None:
    """Control codes that a terminal would obey, or endless messages."""
    if "\x1b" in ended.text or "\x07" in ended.text:
        return "control codes reach the terminal"
    longest = max(map(len, ended.text.splitlines()), default=0)
    if longest > 10_000 or len(ended.text) > 100_000:
        return f"prints {len(ended.text):,} characters, {longest:,} in one line"
    return None


def contents(group: Group) -> dict[str, Any]:
    """Files of the group by name, with size and time; reading changes none."""
    found = {}
    for path in sorted(group.folder.rglob("*")):
        known = path.lstat()
        found[str(path)] = (known.st_size, known.st_mtime_ns, known.st_ino)
    return found


def changed(group: Group, before: dict[str, Any]) -> str | None:
    return None if contents(group) == before else "what was read is changed"


def wrong_files(group: Group, out: Path, ended: Ended) -> str | None:
    """What is wrong with the files of a report."""
    left = sorted(path.name for path in out.parent.iterdir() if path.name.startswith("."))
    if left:
        return f"leaves {left}"
    if ended.status != 0:
        return "leaves half a report" if out.exists() else None
    page = (out / "index.html").read_text(encoding="utf-8")
    looked = Page()
    looked.feed(page)
    if looked.odd or not page.rstrip().endswith("</html>"):
        return f"a page with {looked.odd or 'no end'}"
    if (trainings := out / "trainings.json").exists():  # no row was left, so nothing was probed
        json.loads(trainings.read_text(), parse_constant=_refuse)
        if group.kept:
            return f"{len(group.kept)} sound rows are not in the report"
        said = not group.lines or "left out" in page
        return None if said else "the page does not say what is left out"
    json.loads((out / "crossover.json").read_text(), parse_constant=_refuse)
    with (out / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) < len(group.kept):
        return f"{len(group.kept) - len(rows)} of {len(group.kept)} sound rows are not in rows.csv"
    told = json.loads((out / "crossover.json").read_text())["damaged"]
    lines = len(group.lines) - len(rows)
    if group.kept and lines > len(told):
        return f"{lines} lines are left out, and {len(told)} are told"
    if told and "left out" not in page:
        return "the page does not say what is left out"
    return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Page(HTMLParser):
    """Whatever in a page could be executed and is not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        known = dict(attributes)
        source = known.get("src") or ""
        if (
            any(name.startswith("on") for name in known)
            or known.get("id") == "x"
            or (source and not source.startswith("data:image/png;"))
            or tag in ("iframe", "object", "embed", "base", "form")
            or (tag == "script" and self.scripts > OUR_SCRIPTS)
        ):
            self.odd.append(f"<{tag} {attributes}>"[:200])


OUR_SCRIPTS = 2  # of a page: the data and what draws it
