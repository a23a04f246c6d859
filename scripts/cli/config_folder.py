"""`--config-dir FOLDER`: choices of a user's beside those in `conf/`, as data that runs nothing.

The folder has sub-folders as `conf/` has: `experiment/mine.yaml`, `model/mine.yaml`. What is chosen
from it is checked as a command line is. Before, every YAML in it is looked through for what could
reach code or the environment.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.schema import FOLDER
from core.errors import shown
from core.parsing import Unreadable, read_text, read_yaml
from scripts.cli.limits import INTERPOLATION, KEY

MOST = 1000  # files
PACKAGE = re.compile(r"^\s*#\s*@package\s+(\S+)", re.MULTILINE)
SWEPT = re.compile(r"\+?[A-Za-z][\w./]*")
CLASSES = ("callbacks", "loggers")
"""Keys that name classes, also of files of Python (`training.loop.plugins`)."""
CODE_FOLDER = "include_path"  # its tasks may call Python


def folders(folder: Path | None) -> list[Path]:
    """Where choices are looked up, `conf/` first."""
    return [FOLDER] if folder is None else [FOLDER, folder]


def search_words(folder: Path | None) -> list[str]:
    """The words that have Hydra look there too, after its own folder and `conf/`."""
    if folder is None:
        return []
    place = str(folder.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{place}']"]


def folder_problems(folder: Path) -> list[str]:
    """Why a folder cannot be taken; empty if it can."""
    said = f"--config-dir {shown(folder, 200)}"
    if not os.path.isdir(folder):  # noqa: PTH112 (which raises for names that are too long)
        return [f"{said}: no such folder"]
    paths: list[Path] = []
    for place, below, names in os.walk(folder):
        for path in (Path(place, name) for name in sorted(below)):
            if path.is_symlink():  # Hydra would follow it, and nothing has looked through it
                return [f"{said}: {path} is a link to a folder: put the folder itself there"]
        paths += [Path(place, name) for name in names if name.endswith((".yaml", ".yml"))]
        if len(paths) > MOST:
            return [f"{said}: more than {MOST:,} YAML files in it"]
    if not paths:
        return [f"{said}: no YAML in it, as experiment/mine.yaml"]
    hidden = [
        f"{path}: not read, because conf/{name} goes before it: give it another name"
        for path in sorted(paths)
        if is_hidden(name := path.relative_to(folder), path)
    ]
    return hidden or [f"{path}: {problem}" for path in sorted(paths) for problem in _problems(path)]


def is_hidden(name: Path, path: Path) -> bool:
    """Whether `conf/` has another file of that name, which Hydra would take."""
    ours = FOLDER / name
    return ours.is_file() and not filecmp.cmp(ours, path, shallow=False)


def composing_problem(text: str, folder: Path | None) -> str | None:
    """What is wrong with a file of `folder` that Hydra's `text` says it cannot merge."""
    named = re.match(r"In '([^']+)': ", text)
    path = Path(folder, f"{named[1]}.yaml") if named and folder is not None else None
    if named is None or path is None or not path.is_file():
        return None
    if named[1].startswith("experiment/") and not _is_global(read_text(path)):
        key = next((key for key in read_yaml(path) if key != "defaults"), "defaults")
        return (
            f"{path}: its keys, as {shown(key)}, are not taken for those of a run, because its "
            "first line is not '# @package _global_': put that line above all others"
        )
    place = re.search(r"^\s+full_key: (\S+)", text, re.MULTILINE)
    first, *more = text.strip().splitlines()
    if place is None or not more:
        return f"{path}: {shown(first[named.end() :], 200)}"
    if more[0].startswith("Key "):
        return f"{path}: unknown key {place[1]!r}"
    return f"{path}: {place[1]}: {shown(more[0], 200)}"


def _is_global(text: str) -> bool:
    """Whether the first line that says something has Hydra put the keys where a run has them."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    found = PACKAGE.match(first)
    return found is not None and found[1] == "_global_"


def _problems(path: Path) -> Iterator[str]:
    try:
        text = read_text(path)
        lines = [line.strip() for line in text.splitlines()]
        is_empty = all(line in ("", "---") or line.startswith("#") for line in lines)
        content = {} if is_empty else read_yaml(path)
    except Unreadable as error:
        yield shown(error.reason, 200)
        return
    for package in PACKAGE.findall(text):
        if package not in ("_global_", "_group_"):
            yield f"@package {shown(package)}: only _global_ or none"
    defaults = content.get("defaults") or []
    if not isinstance(defaults, list):
        yield f"defaults: {shown(defaults)} is no list"
        defaults = []
    for entry in defaults:
        if "hydra" in str(entry):
            yield f"{shown(entry)}: Hydra's own choices are for the command line"
    hydra = content.get("hydra")
    params = hydra.get("sweeper") if isinstance(hydra, dict) else None
    if "hydra" in content and not (
        isinstance(hydra, dict) and hydra.keys() == {"sweeper"}
        and isinstance(params, dict) and params.keys() == {"params"}
    ):  # fmt: skip
        yield "hydra: of Hydra's own keys only hydra.sweeper.params can be set"
    yield from _value_problems(content, "")


def _value_problems(value: Any, key: str) -> Iterator[str]:
    words = re.split(r"[.+~]+", key)
    if CODE_FOLDER in words and value is not None:
        yield f"{shown(key)}: folders with code are named on the command line alone"
    if isinstance(value, dict):
        for name, inner in value.items():
            whole = f"{key}.{name}" if key else str(name)
            if str(name).startswith("_") and str(name).endswith("_") and name != "_self_":
                yield f"{shown(whole)}: keys of this form could name code"
            if words[0] == "hydra" and not SWEPT.fullmatch(str(name)):
                yield f"{shown(whole)} is no key"
            yield from _value_problems(inner, whole)
    elif isinstance(value, list):
        for inner in value:
            yield from _value_problems(inner, key)
    elif isinstance(value, str):
        if words[-1] == "target" and not value.startswith("models."):
            yield f"{shown(key)}={shown(value)}: only classes inside models/ can be built"
        # A part that another key fills in, or a grid in Hydra's grammar, could name a file too.
        is_open = "${" in value or words[0] == "hydra"
        if ".py:" in value or (is_open and any(name in words for name in CLASSES)):
            yield f"{shown(key)}={shown(value)}: files of code are named on the command line alone"
        for inside in INTERPOLATION.findall(value):
            if not KEY.fullmatch(inside):
                yield f"{shown(key)}: {shown('${' + inside + '}')} is no key"
