"""`--config-dir FOLDER`: choices of a user's beside those in `conf/`, as data that runs nothing.

The folder has sub-folders as `conf/` has: `experiment/mine.yaml`, `model/mine.yaml`. What is chosen
from it is checked as a command line is. Before, every YAML in it is looked through for what could
reach code or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from conf.schema import FOLDER
from core.errors import shown
from scripts.cli.limits import INTERPOLATION, KEY

MOST = 1000  # files
LARGEST = 1 << 20  # bytes of one
PACKAGE = re.compile(r"^\s*#\s*@package\s+(\S+)", re.MULTILINE)
CODE_FILE = re.compile(r".*\.py:\w+", re.DOTALL)


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
    if not folder.is_dir():
        return [f"--config-dir {shown(folder, 200)}: no such folder"]
    paths = sorted({*folder.rglob("*.yaml"), *folder.rglob("*.yml")})[: MOST + 1]
    if not paths:
        return [f"--config-dir {shown(folder, 200)}: no YAML in it, as experiment/mine.yaml"]
    if len(paths) > MOST:
        return [f"--config-dir {shown(folder, 200)}: more than {MOST:,} YAML files in it"]
    return [f"{path}: {problem}" for path in paths for problem in _problems(path)]


def _problems(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > LARGEST:
            yield "too large for a configuration"
            return
        text = path.read_text(encoding="utf-8")
        content: Any = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, RecursionError, ValueError, yaml.YAMLError) as error:
        yield f"no YAML ({shown(' '.join(str(error).split()), 200)})"
        return
    for package in PACKAGE.findall(text):
        if package not in ("_global_", "_group_"):
            yield f"@package {shown(package)}: only _global_ or none"
    if content is None:
        return
    if not isinstance(content, dict):
        yield "no keys with values"
        return
    for entry in content.get("defaults") or ():
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
    if isinstance(value, dict):
        for name, inner in value.items():
            whole = f"{key}.{name}" if key else str(name)
            if str(name).startswith("_") and str(name).endswith("_") and name != "_self_":
                yield f"{shown(whole)}: keys of this form could name code"
            yield from _value_problems(inner, whole)
    elif isinstance(value, list):
        for inner in value:
            yield from _value_problems(inner, key)
    elif isinstance(value, str):
        if key.split(".")[-1] == "target" and not value.startswith("models."):
            yield f"{shown(key)}={shown(value)}: only classes inside models/ can be built"
        if CODE_FILE.fullmatch(value):
            yield f"{shown(key)}={shown(value)}: files of code are named on the command line alone"
        for inside in INTERPOLATION.findall(value):
            if not KEY.fullmatch(inside):
                yield f"{shown(key)}: {shown('${' + inside + '}')} is no key"
