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
from tests.training.runs import write_library

NOTEBOOK = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())


PARTS = ("a new model", "official weights", "rows", "the notebook")
BETWEEN = "-- what the next one says --"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose `models` would hide ours."""
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "models").mkdir()
    (path / "models" / "__init__.py").write_text("raise ImportError('the wrong models')\n")
    return path


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, str]:
    """What each part says, run in `folder` with the clone first on the path.

    All in one process, which imports for longer than they run.
    """
    weights, rows = folder / "official.pth", folder / "probes.jsonl"
    torch.save(official_weights("rwkv7"), weights)
    library = str(write_library(folder))
    made = [make_row(who, "train", 64, seconds=[0.25] * 3) for who in ("rwkv4", "gpt")]
    rows.write_text("".join(f"{row.to_json()}\n" for row in made))
    cells = ["".join(one["source"]) for one in NOTEBOOK["cells"] if one["cell_type"] == "code"]
    programs = [
        (example("add_a_model.py"), []),
        (example("load_official.py"), [str(weights)]),
        (example("read_rows.py"), [str(rows)]),
        ("\n".join(cells), []),
    ]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    # The notebook's corpus is the standard library, of which some files will do.
    code += "import data.readers.stdlib as reader\n"
    code += f"reader.sysconfig = type('', (), {{'get_path': lambda name: {library!r}}})\n"
    for text, words in programs:
        # As `__main__`, whose classes a data class looks up; a notebook has no file.
        code += f"sys.argv[:] = ['example.py', *{words!r}]\nexec({text!r})\nprint({BETWEEN!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(PARTS, done.stdout.split(BETWEEN), strict=False))


def example(name: str) -> str:
    return (ROOT / "examples" / name).read_text()


def test_a_new_model_learns(said: dict[str, str]) -> None:
    assert float(said["a new model"].split()[1]) < 3


def test_official_weights_are_loaded(said: dict[str, str]) -> None:
    assert "likeliest next token:" in said["official weights"]


def test_rows_become_a_table(said: dict[str, str]) -> None:
    assert "rwkv4" in said["rows"] and "250.0" in said["rows"]


def test_the_workspace_draws_what_probes_record() -> None:
    names = runpy.run_path(str(ROOT / "examples" / "wandb_workspace.py"))
    recorded = curves(make_rows(("gpt",))).values()
    assert all(set(names["PROBES"]) <= figures.keys() for figures in recorded)


def test_the_notebook_runs(folder: Path, said: dict[str, str]) -> None:
    """Its cells train, and measure in child processes, without a file of their own."""
    text = said["the notebook"]
    assert "RWKV-7 (1, 12, 256)" in text and "nats per token" in text
    assert text.count(" ok ") == 4
    assert (folder / "runs" / "notebook" / "summary.json").is_file()
