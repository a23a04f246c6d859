"""Rows, summaries and configurations as nobody would write them, given to what reads them back.

Each trial is a group of probe rows and trainings of which something is damaged, foreign or hostile,
and the script that reads it: the report, the planner, or a sweep that goes on. One message, or a
report of the rest; nothing half written, nothing that a page would execute, no sound row lost.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.faults.child import Ended, script
from tests.faults.report_damages import CONFIGURATIONS, DAMAGES, replace
from tests.faults.report_groups import Group, sound
from tests.faults.trial import Trial, fault, run

csv.field_size_limit(1 << 30)


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
