"""The examples run as written, in a folder that has a `models/` of its own."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.probe import curves
from tests.official_weights import official_weights
from tests.probes.synthetic import make_row, make_rows
from tests.scripts.commands import ROOT

NOTEBOOK = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose `models` would hide ours, with a prepared corpus to be shared."""
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "models").mkdir()
    (path / "models" / "__init__.py").write_text("raise ImportError('the wrong models')\n")
    return path


def run(folder: Path, code: str, *words: str) -> str:
    """What a script prints that is run in `folder` with the clone first on the path."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'example.py'\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code, *words],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def example(name: str) -> str:
    return (ROOT / "examples" / name).read_text()


def test_a_new_model_learns(folder: Path) -> None:
    assert float(run(folder, example("add_a_model.py")).split()[1]) < 3


def test_official_weights_are_loaded(folder: Path) -> None:
    path = folder / "official.pth"
    torch.save(official_weights("rwkv7"), path)
    assert "likeliest next token:" in run(folder, example("load_official.py"), str(path))


def test_rows_become_a_table(folder: Path) -> None:
    rows = [make_row(who, "train", 64, seconds=[0.25] * 3) for who in ("rwkv4", "gpt")]
    path = folder / "probes.jsonl"
    path.write_text("".join(f"{row.to_json()}\n" for row in rows))
    table = run(folder, example("read_rows.py"), str(path))
    assert "rwkv4" in table and "250.0" in table


def test_the_workspace_draws_what_probes_record() -> None:
    names = runpy.run_path(str(ROOT / "examples" / "wandb_workspace.py"))
    recorded = curves(make_rows(("gpt",))).values()
    assert all(set(names["PROBES"]) <= figures.keys() for figures in recorded)


def test_the_notebook_runs(folder: Path) -> None:
    """Its cells train, and measure in child processes, without a file of their own."""
    cells = ["".join(one["source"]) for one in NOTEBOOK["cells"] if one["cell_type"] == "code"]
    text = run(folder, "\n".join(cells))
    assert "RWKV-7 (1, 12, 256)" in text and "nats per token" in text
    assert text.count(" ok ") == 4
    assert (folder / "runs" / "notebook" / "summary.json").is_file()
