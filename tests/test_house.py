"""The shape of the repository: imports go one way, as the picture in docs/architecture.md shows."""

from __future__ import annotations

import ast
import itertools
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import models

ROOT = Path(__file__).resolve().parents[1]
PICTURE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = (
    "benchmarks", "conf", "core", "data", "evaluation", "models", "probes", "scripts", "serving",
    "tracking", "training",
)  # fmt: skip
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
HEAVY = {"lightning", "hydra", "omegaconf", "wandb", "deepspeed"}


def module(path: Path) -> str:
    """Dotted name of a file of the repository."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


@cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def modules_used(name: str) -> set[str]:
    """Modules of the repository that a module imports."""
    names = imported(MODULES[name])
    return {one if one in MODULES else one.rpartition(".")[0] for one in names} & MODULES.keys()


def arrows(package: str) -> dict[str, set[str]]:
    """Which direct parts of a package import which others; of the whole repository for `""`.

    A part is a sub-package with all that is in it, or a module.
    """
    inside = f"{package}." if package else ""
    found: dict[str, set[str]] = {}

    def part(name: str) -> str | None:
        return inside + name.removeprefix(inside).split(".")[0] if name.startswith(inside) else None

    for name in MODULES:
        if mine := part(name):
            others = {part(one) for one in modules_used(name)} - {mine, None}
            found.setdefault(mine, set()).update(one for one in others if one)
    return found


def pictured(package: str) -> dict[str, set[str]]:
    """The arrows that docs/architecture.md shows of a package."""
    (block,) = re.findall(
        rf"<!-- imports: {package or 'all'} -->\n```text\n(.*?)```", PICTURE, re.S
    )
    lines = [line.replace("->", " ").split() for line in block.splitlines()]
    prefix = f"{package}." if package else ""
    return {prefix + first: {prefix + one for one in rest} for first, *rest in lines}


@pytest.mark.parametrize("package", ["", "models", "training", "probes"])
def test_imports_are_those_of_the_picture(package: str) -> None:
    assert arrows(package) == pictured(package)


@pytest.mark.parametrize(
    "package", ["", *sorted(name for name, path in MODULES.items() if path.name == "__init__.py")]
)
def test_no_part_of_a_package_imports_in_a_circle(package: str) -> None:
    try:
        TopologicalSorter(arrows(package)).prepare()
    except CycleError as error:
        pytest.fail(f"{package or 'the repository'}: {' -> '.join(error.args[1])}")


def test_a_circle_would_be_seen() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    assert "models.contract" in arrows("models")["models.layers"]


@pytest.mark.parametrize("package", ["core", "models"])
def test_the_ground_floors_need_no_framework(package: str) -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            used = {one.split(".")[0] for one in imported(path)}
            assert not used & HEAVY, f"{name} imports {used & HEAVY}"


def test_models_is_this_checkout() -> None:
    assert Path(models.__file__).resolve().parent == ROOT / "models"


def test_cuda_folder_holds_no_python() -> None:
    assert not list((ROOT / "cuda").rglob("*.py")), "it would shadow NVIDIA's package `cuda`"


def test_class_paths_appear_only_in_model_yamls() -> None:
    for path in FILES:
        assert "_target_" not in path.read_text(), path
    for path in (ROOT / "conf" / "model").glob("*.yaml"):
        assert "target: models." in path.read_text()


def rows_of(heading: str) -> dict[str, list[str]]:
    """A table of tests/README.md: names in the first column, and those quoted in the second."""
    _, _, rest = (ROOT / "tests" / "README.md").read_text().partition(f"{heading}\n|---|---|\n")
    lines = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines())
    cells = [line.split("|")[1:3] for line in lines]
    return {first.strip("` "): re.findall(r"`([^`]+)`", second) for first, second in cells}


def test_every_source_file_has_a_test() -> None:
    """A test file of its name, or a row of the table in tests/README.md."""
    covered = rows_of("| source | covered by |")
    names = [path.relative_to(ROOT) for path in FILES if path.name != "__init__.py"]
    untested = {
        str(name)
        for name in names
        if not (ROOT / "tests" / name.parent / f"test_{name.name}").is_file()
    }
    assert untested == covered.keys()
    missing = {test for tests in covered.values() for test in tests if not (ROOT / test).is_file()}
    assert missing == set()


def test_every_test_file_has_a_source() -> None:
    """A source file of its name, or a row of the second table in tests/README.md."""
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    sources = {path.relative_to(ROOT) for path in FILES}
    without = {
        str(test)
        for test in tests
        if Path(*test.parts[1:-1], test.name.removeprefix("test_")) not in sources
    }
    assert without == rows_of("| tests | of |").keys()
