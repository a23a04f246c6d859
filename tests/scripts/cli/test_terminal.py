"""Ctrl-C and pipes without readers end a script quietly."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from conf.schema import ReportConf, TrainConf
from core.writable import explain
from scripts.cli import console, terminal
from scripts.cli.jobs import places
from tests.scripts.commands import ROOT, run_script


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert terminal.run(interrupted) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error("a\x1b[2J\n\tb\r\x9b")
    record = logging.makeLogRecord({"msg": "%s: \x1b]0;c\x07", "args": ("é 中",)})
    console.Notices().handle(record)
    assert capsys.readouterr().err == "error: a\\x1b[2J\n\tb\\r\\x9b\né 中: \\x1b]0;c\\x07\n"


def test_without_a_reader_the_status_is_0() -> None:
    def unread() -> int:
        raise BrokenPipeError

    def unread_by_rich() -> int:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904  (as rich does)

    assert terminal.run(unread) == terminal.run(unread_by_rich) == 0
    with pytest.raises(SystemExit):
        terminal.run(lambda: exit(75))


def test_a_full_disk_is_told_without_a_traceback() -> None:
    for number in (errno.ENOSPC, errno.EFBIG):
        message = explain(OSError(number, "no room", "x/page.png"), [])
        assert message == "x/page.png cannot be written (no room): make room and start again"
    assert explain(OSError(errno.ENOENT, "no such file", "x"), []) is None


def test_a_disk_without_room_for_temporary_files_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("scripts.cli.jobs.run", full)
    done = run_script(capfd, "train", "name=first")
    assert done.status == 2
    assert done.err == (
        "error: no folder for temporary files can be written: make room on the disk, or name "
        "another folder in TMPDIR\n"
    )


def test_what_happens_at_a_path_of_the_configuration_is_told_with_its_key() -> None:
    conf = ReportConf(runs=["runs/probe"], out="runs/probe/report")
    assert [*places(conf)] == [("runs", "runs/probe"), ("out", "runs/probe/report")]
    assert ("data.cache_dir", ".cache") in places(TrainConf())
    for file, key in (
        ("runs/probe/report/a.png", "out"), ("runs/probe/rows", "runs"), ("runs", "out"),
    ):  # fmt: skip
        message = explain(PermissionError(errno.EACCES, "not allowed", file), places(conf))
        assert message and message.startswith(f"{key}=runs/probe") and "(not allowed)" in message
    elsewhere = PermissionError(errno.EACCES, "not allowed", "/elsewhere")
    assert explain(elsewhere, places(conf)) is None


def test_a_multirun_needs_no_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts.cli.jobs import SCRATCH, scratch

    monkeypatch.chdir(tmp_path)
    with scratch() as folder:
        assert folder == SCRATCH and folder.is_dir()
    SCRATCH.rmdir()
    SCRATCH.touch()
    with scratch() as folder:
        assert folder.is_dir() and folder.is_absolute()
    assert not folder.exists()


def test_what_a_script_begins_with_imports_next_to_nothing() -> None:
    """Ctrl-C is quiet only once this is imported."""
    code = (
        "import sys; import scripts.cli.launch;"
        "print({'hydra', 'omegaconf', 'torch', 'numpy', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
