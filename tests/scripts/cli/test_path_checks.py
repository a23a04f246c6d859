"""What is not there is told at once, before PyTorch is imported, and in the words of later."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conf.schema import DataConf, GenerateConf, PlanConf, ProbeConf, ReportConf, TrainConf
from core.errors import UserError
from scripts.cli.path_checks import group_place, place_problems
from tests.scripts.commands import run_script
from training.run_folder.folder import resume_target


def training(runs_dir: Path | str, *paths: Path, markup: bool = False) -> TrainConf:
    data = DataConf(corpus="text", paths=list(map(str, paths)), markup=markup)
    return TrainConf(name="a", runs_dir=str(runs_dir), model={}, data=data)


def test_texts_are_looked_at(tmp_path: Path) -> None:
    table, text = tmp_path / "a.csv", tmp_path / "a.txt"
    table.write_text("a,b,c\n" * 20)
    text.write_text("a quiet river\n" * 20)
    assert place_problems([training(tmp_path, text)]) == []
    (problem,) = place_problems([training(tmp_path, table, tmp_path / "b", tmp_path)])
    for part in ("a.csv is CSV", "b' does not exist", f"{tmp_path}' is a folder"):
        assert part in problem, part
    assert place_problems([training(tmp_path, table, markup=True)]) == []


def test_folders_are_looked_for(tmp_path: Path) -> None:
    gone, probe = str(tmp_path / "gone"), ProbeConf(runs_dir="/dev/null", model={})
    assert place_problems([ReportConf(runs=[str(tmp_path), gone])]) == [
        f"{gone}: no such folder; runs= takes run or group folders"
    ]
    assert place_problems([PlanConf(model={}, runs=[gone])]) == [
        f"{gone}: no such folder; runs= takes run or group folders"
    ]
    nosuch = GenerateConf(run="nosuch", runs_dir=str(tmp_path))
    assert place_problems([nosuch, nosuch]) == [
        f"run='nosuch': no such run in {tmp_path}/ and no such file or folder"
    ]
    for conf, folder in ((training("/dev/null"), "a"), (probe, "probe")):
        (problem,) = place_problems([conf])
        assert problem.startswith(f"/dev/null/{folder} cannot be written (Not a directory")


def test_a_report_takes_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path)
    assert place_problems([ReportConf(runs=["first", "second", "runs/first"])]) == []
    assert [str(group_place(word)) for word in ("first", "second")] == ["runs/first", "second"]
    assert len(place_problems([ReportConf(runs=["third"])])) == 1


def test_a_finished_run_has_nothing_to_look_for(tmp_path: Path) -> None:
    conf = training(tmp_path, tmp_path / "gone.txt")
    assert "matches no file" in place_problems([conf])[0]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").write_text("{}")
    assert place_problems([conf]) == []


def test_scripts_refuse_before_they_import_what_takes_long(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scripts.report", None)  # importing it would fail
    done = run_script(capfd, "report", "runs=nosuch")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: nosuch: no such folder")


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/proc/self/mem", "made up by the kernel"), ("/dev/null", "a pipe, a device or a socket")],
)
def test_only_files_are_resumed_from(path: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^resume='{path}' is {kind}"):
        resume_target(path, str(tmp_path))
