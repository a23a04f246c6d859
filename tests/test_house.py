"""The shape of the repository: which folder may import which, and that this checkout is tested."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import models

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("conf", "data", "models", "probes", "scripts", "training")

# Data flows conf -> scripts -> data, training, probes -> models. Everybody may read the types in
# conf.schema, which imports nothing of Crossover.
MAY_IMPORT = {
    "models": set(),
    "data": {"conf.schema", "models"},
    "training": {"conf.schema", "models", "data"},
    "probes": {"conf.schema", "models", "data"},
    "conf": {"models", "data", "training"},
    "scripts": {"conf", "models", "data", "training", "probes"},
}
HEAVY = {"lightning", "hydra", "omegaconf", "wandb", "deepspeed"}
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Dotted names of every module a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[folder] | {folder}
    for name in imported(path):
        if name.split(".")[0] in FOLDERS:
            assert any(name == one or name.startswith(f"{one}.") for one in allowed), name
        if folder == "models":
            assert name.split(".")[0] not in HEAVY, name


def test_schema_imports_nothing_of_crossover() -> None:
    names = imported(ROOT / "conf" / "schema.py")
    assert not any(name.split(".")[0] in FOLDERS for name in names)


def test_models_is_this_checkout() -> None:
    assert Path(models.__file__).resolve().parent == ROOT / "models"


def test_cuda_folder_holds_no_python() -> None:
    assert not list((ROOT / "cuda").rglob("*.py")), "it would shadow NVIDIA's package `cuda`"


def test_class_paths_appear_only_in_model_yamls() -> None:
    bad_examples = ROOT / "scripts" / "faults" / "command_lines.py"
    for path in [file for file in FILES if file != bad_examples]:
        assert "_target_" not in path.read_text(), path
    for path in (ROOT / "conf" / "model").glob("*.yaml"):
        assert "target: models." in path.read_text()
