"""A profiled run: its trace, its summary, and that nothing else differs."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from tests.training.runs import run, run_conf, write_corpus
from training.loop import profile
from training.loop.plugins import window


def test_a_profile_changes_no_bits_and_tells_where_time_and_memory_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path)
    plain, _ = run(run_conf(tmp_path / "plain", corpus))
    summary, folder = run(run_conf(tmp_path, corpus, training__profile="3:5"))
    assert summary["digest"] == plain["digest"]

    trace = json.loads(gzip.decompress((folder.path / "profile-3-5.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("backward") >= 3 and "layer 0" in names and "saving" in names

    text = (folder.path / "profile-3-5.txt").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("optimizer steps 3 to 5: ")
    shares = dict(re.findall(r"([a-z ]+) (\d+\.\d) %", text.splitlines()[1]))
    assert {"forward", "backward", "optimizer", "loading", "saving", "validation"} <= {
        name.strip() for name in shares
    }
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=1)
    assert len(re.findall(r"^ +\d+\.\d %  ", text, re.MULTILINE)) == profile.DEAREST
    assert "matrix products" in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("layer ")]
    assert len(rows) >= 2 and all(len(row) == 2 + 2 * 4 for row in rows)
    assert {tuple(row[2:4]) for row in rows} == {tuple(row[4:6]) for row in rows}  # gradients


def test_without_the_key_nothing_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a profile that nobody asked for")

    monkeypatch.setattr(profile.StepProfiler, "start", refuse)
    monkeypatch.setattr(profile.ProfileSteps, "__init__", refuse)
    summary, folder = run(run_conf(tmp_path, write_corpus(tmp_path), trainer__max_steps=1))
    assert summary["steps"] == 1
    assert not [*folder.path.glob("profile*"), *folder.path.glob("samples*")]


@pytest.mark.parametrize("text", ["", "5", "5:3", "0:3", "a:b", "1:2:3"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="FIRST:LAST"):
        window(text)


def test_operations_have_words() -> None:
    for name, words in (
        ("aten::addmm", "matrix products"),
        ("aten::_fused_adamw_", "the optimizer's update and the gradient's norm"),
        ("crossover::wkv7_backward", "the WKV recurrence"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
    ):
        fits = [each for pattern, each in profile.WORDS.items() if re.fullmatch(pattern, name)]
        assert fits[0] == words
