"""scripts/plan.py as its user sees it: tables, files, and one clear message for each mistake."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from probes.rows import append_rows
from tests.probes.specs import training_row
from tests.scripts.commands import run_script

SMALL = ("model.size=tiny", "data.vocab_size=97", "data.length=64", "machine=h100")


def test_a_plan_with_its_files(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    append_rows(tmp_path / "runs" / "probes.jsonl", [training_row(64, 97)])
    done = run_script(
        capfd, "plan", *SMALL, "model=rwkv4", "devices=16", "tokens=1e9", "segment=32",
        "lengths=[32,64]", f"out={tmp_path / 'plan'}", f"runs=[{tmp_path / 'runs'}]",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert re.search(r"fsdp +segments", done.out)
    assert "extrapolated: NVIDIA H100 SXM: rates that were not measured here" in done.out
    written = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert [plan["length"] for plan in written["plans"]] == [64, 32, 64]
    rows = written["plans"][0]["rows"]
    assert len(rows) == 18
    assert all(row["step_s"] > 0 and row["cost"] > 0 for row in rows)
    by_name = {(row["strategy"], row["variant"]): row for row in rows}
    alone = by_name["one device", "plain"]
    shared = by_name["fsdp", "plain"]
    assert shared["memory"]["optimizer"] * 16 == alone["memory"]["optimizer"]
    assert alone["traffic_bytes"] == 0 < shared["traffic_bytes"]
    assert alone["cost"] == pytest.approx(2.5 * alone["training_s"] / 3600)
    page = (tmp_path / "plan" / "index.html").read_text()
    assert "rwkv4, measured" in page
    assert "plain, extrapolated" in page
    assert "stroke-dasharray" in page
    assert not re.search(r"(src|href)=\"https?:", page)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("machine=h300",), "machine=h300: no such machine; did you mean"),
        (("devices=0",), "devices=0: must be at least 1"),
        (("data.batch_size=3", "devices=2"), "data.batch_size=3 cannot be shared by devices=2"),
        (("model=gpt",), "model.n_positions=1024 is shorter than data.length=2048"),
        (("machine.memory_bytes=1e6",), "nothing fits into 0.0 GB"),
        (("lengths=[64]",), "draws a curve: say where with out=FOLDER"),
    ],
)
def test_mistakes_get_one_clear_message(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    length = "data.length=2048" if words == ("model=gpt",) else "data.length=64"
    done = run_script(capfd, "plan", *SMALL, length, *words)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("error:") == 1
    assert "Traceback" not in done.err


def test_runs_without_this_model_are_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    row = replace(
        training_row(64, 97), config={**asdict(training_row(64, 97))["config"], "n_layer": 9}
    )
    append_rows(tmp_path / "probes.jsonl", [row])
    done = run_script(
        capfd,
        "plan",
        *SMALL,
        "model=rwkv4",
        "lengths=[64]",
        f"runs=[{tmp_path}]",
        f"out={tmp_path / 'plan'}",
    )
    assert done.status == 2
    assert "none of 1 row is a training of rwkv4 tiny" in done.err
    assert not (tmp_path / "plan").exists()
