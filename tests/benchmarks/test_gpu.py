"""The script of a lease, end to end where there is no GPU: real parts, tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_checks import CHECKS, CLASSES, LIMITS, PEERS
from tests.registered_models import NAMES

NO_PEERS = dict.fromkeys(PEERS, "")


def rows_of(folder: Path, names: list[str], device: str = "cpu", **more: Any) -> list[Any]:
    budget, peers = more.get("budget", 300.0), more.get("peers", NO_PEERS)
    rows = [*gpu.run(folder, names, device, budget, peers)]
    written = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written][-len(rows) :] == rows
    return rows


def test_every_model_and_every_check_has_its_limit() -> None:
    assert set(CLASSES) <= set(NAMES)
    assert LIMITS.keys() == CHECKS.keys()
    names = [*CHECKS]
    assert names[0] == "machine" and names[1].startswith("right") and names[-1] == "crossover"


@pytest.mark.slow
def test_checks_on_a_cpu(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ["machine", "right4"])
    found = {row["what"]: row["measured"] for row in rows}
    assert found["device"] == "cpu" and found["back end reference"] == "ready"
    assert found["wkv4 float32 B=1 T=9 H=1"].endswith(": right")
    gpu.write(tmp_path, rows)
    assert "| machine: device |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_all_checks_but_the_sweep_on_a_cpu(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [name for name in CHECKS if name != "crossover"], budget=900.0)
    missing = {row["check"] for row in rows if row["measured"].startswith("not measured")}
    assert missing == {"beside"}
    assert not [row for row in rows if "WRONG" in row["measured"]]
    found = {row["what"]: row["measured"] for row in rows}
    assert "tokens/s" in found["step transformer tiny none"]
    assert "tokens/s" in found["step transformer tiny eager"]


def test_what_cannot_be_measured_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "step_gpt", 0.05)
    (slow,) = rows_of(tmp_path, ["step_gpt"])
    assert slow["measured"] == "not measured: it took more than 0 s"
    late = rows_of(tmp_path, ["machine", "attention"], budget=1.0)
    assert {row["measured"] for row in late} == {"not measured: the time of the lease was used up"}
