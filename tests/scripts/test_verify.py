"""Points of a report that are measured again: which, how, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conf.schema import ProbeConf, VerifyConf
from core.errors import UserError
from models.registry import ModelSpec
from probes.report.foreign_reports import NAME, Foreign, digest_of
from probes.report.verification import targets
from probes.report.write import write_report
from probes.rows import Row, append_rows
from scripts import verify
from tests.probes.synthetic import make_row
from tests.registered_models import spec_of

LENGTHS = (64, 128)


def rows(specs: Sequence[ModelSpec], lengths: Sequence[int], factor: float = 1.0) -> list[Row]:
    """Three processes of each, of which the recurrent model takes `factor` times as long."""
    made = []
    for spec in specs:
        for length in lengths:
            for process in range(3):
                row = make_row(
                    spec.name, "train", length, size=spec.size, target=spec.target,
                    config=spec.config, process=process,
                )  # fmt: skip
                scale = factor if row.recurrent else 1.0
                row.seconds[:] = [scale * (1 + process / 500) * one for one in row.seconds]
                made.append(row)
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's report of two lengths."""
    folder = tmp_path_factory.mktemp("theirs")
    specs = [spec_of("rwkv4", n_embd=32), spec_of("gpt", n_embd=32)]
    append_rows(folder / "probes.jsonl", rows(specs, LENGTHS))
    write_report([folder], folder / "report", 64, 128, allow_mixed=False)
    return folder / "report"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[ModelSpec], ProbeConf]]:
    """What would be measured; it takes as long as in the report, and at 128 tokens longer."""
    calls = []

    def sweep(specs: list[ModelSpec], conf: ProbeConf, path: Path, on_row: Any) -> list[Row]:
        if path.exists():  # the other measure of this point
            return []
        calls.append((specs, conf))
        made = rows(specs, conf.lengths, 1.5 if conf.lengths == [128] else 1.0)
        append_rows(path, made)
        return made

    monkeypatch.setattr(verify, "run_sweep", sweep)
    return calls


def conf_of(report: Path, tmp_path: Path, **changes: Any) -> VerifyConf:
    return VerifyConf(reports=[str(report)], out=str(tmp_path / "out"), **{"points": 9} | changes)


def test_a_report_says_how_its_points_are_measured_again(
    report: Path,
    measured: list[tuple[list[ModelSpec], ProbeConf]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verify.main(conf_of(report, tmp_path))
    assert sorted(conf.lengths for _, conf in measured) == [[length] for length in LENGTHS]
    for specs, conf in measured:
        assert conf.probes == ["train"]
        assert [spec.name for spec in specs] == ["rwkv4", "gpt"]
        assert all(spec.config["n_embd"] == 32 for spec in specs)
        assert (conf.vocab_size, conf.processes, conf.precision) == (97, [3], "float32")
    content = json.loads((tmp_path / "out" / "verify.json").read_text())
    verdicts = {(one["measure"], one["length"]): one["verdict"] for one in content["points"]}
    assert verdicts["train", 64] == "within" and verdicts["train", 128] == "outside"
    assert verdicts["memory", 64] == "within"
    said = capsys.readouterr().out
    assert "3 of 4 points lie within the report's intervals, 1 outside" in said


def test_what_was_changed_is_named_and_left_out(
    report: Path,
    measured: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads((report / NAME).read_text())
    assert content["digest"] == digest_of(dict(reversed(content.items())))
    ratio = content["crossovers"]["train"]["ratios"]["64"]
    ratio["value"] *= 1.001
    changed, bare = tmp_path / "changed.json", tmp_path / "bare.json"
    changed.write_text(json.dumps(content))
    del content["digest"]
    bare.write_text(json.dumps(content))
    conf = conf_of(changed, tmp_path)
    conf.reports += [str(bare), str(tmp_path / "none.json")]
    with pytest.raises(UserError, match="none is left to verify"):
        verify.main(conf)
    said = capsys.readouterr().err
    assert f"{changed}: its digest is not that of its content; left out" in said
    assert f"{bare}: has no digest" in said and "none.json: no such file; left out" in said
    conf.reports.append(str(report))
    conf.points = 1
    verify.main(conf)
    assert len(measured) == 1


@pytest.mark.parametrize(("said", "made"), [([1, 10**9], 10), ("many", 1), ([2, 4], 4)])
def test_a_report_does_not_decide_how_long_it_takes(
    report: Path, tmp_path: Path, said: Any, made: int
) -> None:
    content = json.loads((report / NAME).read_text())
    content["machine"]["processes_of_a_point"] = said
    (target, *_) = targets(Foreign(report, content))
    conf = conf_of(report, tmp_path)
    assert f"processes=[{made}]" in verify.words_of(target, "rwkv4", conf)
    conf.processes = 70
    assert "processes=[70]" in verify.words_of(target, "rwkv4", conf)


def test_crossovers_stand_side_by_side(
    report: Path, measured: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((report / NAME).read_text())
    content["machine"]["device"] = "Other CPU\x1b[31m"
    content["crossovers"]["train"] |= {"length": 512.4, "low": 490.0, "high": 530.0}
    content["digest"] = digest_of(content)
    (tmp_path / NAME).write_text(json.dumps(content))
    conf = conf_of(report, tmp_path, points=0)
    conf.reports.append(str(tmp_path))
    verify.main(conf)
    said = capsys.readouterr().out
    assert "512 (490 to 530)" in said and "Test CPU" in said and "\x1b" not in said
    found = json.loads((tmp_path / "out" / "verify.json").read_text())
    trained = [one for one in found["crossovers"] if one["measure"] == "train"]
    assert [one["length"] for one in trained][-1] == 512.4
    assert {one["digest"] for one in found["crossovers"]} >= {content["digest"]}
    assert found["points"] == [] and not measured


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"n_embd": "${oc.env:HOME}"}}, "is no plain value"),
        ({"config": {"n_embd": 32, "layers of": 3}}, "is no plain value"),
        ({"config": {"n_embd": -5}}, "model.n_embd"),
        ({"config": {}}, "does not say how rwkv4 is built"),
        ({"model": "rwkv99"}, "rwkv99"),
        ({"weights": {"sha256": "0"}}, "has weights of a file"),
    ],
)
def test_what_cannot_be_built_is_not_measured(
    report: Path, measured: list[Any], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    content = json.loads((report / NAME).read_text())
    content["models"]["rwkv4"] |= changes
    content["digest"] = digest_of(content)
    (tmp_path / NAME).write_text(json.dumps(content))
    verify.main(conf_of(tmp_path, tmp_path, points=1))
    found = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert {one["verdict"] for one in found["points"]} == {"not measured"} and not measured
    assert all(reason in one["reason"] for one in found["points"])
