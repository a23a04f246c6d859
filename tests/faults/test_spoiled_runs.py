"""Trials on run folders: how many kinds there are, and that they would notice a loss."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults import runs
from tests.faults.child import Ended
from tests.faults.runs import NAME, Base, Field, drawn, lost
from tests.training.runs import run_conf
from training.run_folder.folder import RunFolder


def test_the_ways_are_many_and_the_same_for_a_seed(tmp_path: Path) -> None:
    field = Field(tmp_path, 0)
    ways = [drawn(field, random.Random(number))[:3] for number in range(400)]
    assert ways == [drawn(field, random.Random(number))[:3] for number in range(400)]
    assert len(set(ways)) > 250
    files = {file.rpartition("/")[2] for _, file, _ in ways}
    assert files >= {"config.yaml", "metrics.jsonl", "summary.json", "start.json", "lock", "wandb"}
    assert {way for _, file, way in ways if file == "checkpoints"} >= {"of another seed", "a pipe"}


@pytest.mark.parametrize(
    ("text", "digest", "said"),
    [
        ("run: continuing from step 18\n", "other", "another digest without a word"),
        ("run: 1 parameters, step 24\n", "ours", "started over without a word"),
        ("run: continuing from step 18\n", "ours", None),
        ("config.yaml: not YAML\nrun: continuing from step 18\n", "other", None),
    ],
)
def test_another_end_without_a_word_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, digest: str, said: str | None
) -> None:
    folder = RunFolder(tmp_path / "place" / "runs" / NAME)
    folder.path.mkdir(parents=True)
    folder.write_summary({"steps": 24, "digest": digest})
    monkeypatch.setattr(runs, "run", lambda *args: Ended(0, text, 1.0))
    base: Any = Base(tmp_path, run_conf(tmp_path, tmp_path), "ours", [])
    _, problem = Field(tmp_path / "field", 0)._resume(base, tmp_path / "place", folder.path)
    assert (problem or "").startswith(said or "") and bool(problem) == bool(said)


def test_a_lost_checkpoint_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    assert lost(tmp_path, {}) is None
    assert lost(tmp_path, {"step-00000018.ckpt": True}) == "lost step-00000018.ckpt"
    (tmp_path / "secret").write_text("overwritten")
    assert "of others" in (lost(tmp_path, {}) or "")
