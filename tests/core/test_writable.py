"""Whether a place can be written is told before any work, and nothing is left by asking."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core import writable
from core.errors import UserError
from core.files import filling, making
from core.writable import check_writable, writing

WRONG: dict[str, Callable[[Path], Path]] = {
    "Not a directory": lambda path: path / "file",
    "Not a director[y]": lambda path: path / "file" / "below" / "it",
    "a link that leads to no folder": lambda path: path / "nowhere",
    "a link that leads to no folder, at .*nowhere": lambda path: path / "nowhere" / "below",
    "Too many levels of symbolic links": lambda path: path / "loop" / "below",
    "File name too long": lambda path: path / ("n" * 300) / "below",
}


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_be_written_is_told_and_stays_as_it_was(tmp_path: Path, why: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"^out=.* cannot be written \({why}\): choose") as refused:
        check_writable(WRONG[why](tmp_path), "out")
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before
    check_writable(tmp_path / "new" / "below")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("field", ["f_bfree", "f_bavail", "f_ffree", "f_favail"])
def test_a_full_disk_and_one_without_names_are_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    class Disk:
        f_blocks = f_bfree = f_bavail = f_files = f_ffree = f_favail = 10
        f_flag = 0

    monkeypatch.setattr(os, "statvfs", lambda path: Disk)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if "free" in field else 1000)
    check_writable(tmp_path / "new")
    monkeypatch.setattr(Disk, field, 0)
    with pytest.raises(UserError, match="No space left on device"):
        check_writable(tmp_path / "new")
    monkeypatch.setattr(Disk, "f_blocks", 0)  # a file system that does not count
    monkeypatch.setattr(Disk, "f_files", 0)
    check_writable(tmp_path / "new")


def test_a_folder_that_may_not_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(tmp_path)


def test_folders_that_were_made_in_vain_go_again(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="in vain"), making(folder):
        raise ValueError("in vain")
    assert not list(tmp_path.iterdir())
    with making(folder):
        pass
    assert folder.is_dir()


def test_a_folder_is_filled_by_all_files_or_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="out cannot be written"), writing(out):  # noqa: SIM117
        with filling(out, last="b") as aside:
            (aside / "a").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())
    out.mkdir()
    (out / "mine").write_text("mine")
    with filling(out, last="b") as aside:
        (aside / "b").write_text("b")
        (aside / "a").write_text("a")
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "mine"]
    with filling(out, last="b", former=("a", "b", "c")) as aside:
        (aside / "b").write_text("b")
    assert sorted(path.name for path in out.iterdir()) == ["b", "mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_there_is_filled_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder above may be another file system, or one in which nothing may be written."""
    out = tmp_path / "above" / "mounted"
    out.mkdir(parents=True)
    made: list[Path] = []
    make = tempfile.mkdtemp

    def watched(prefix: str, dir: Path) -> str:
        made.append(dir)
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", watched)
    with filling(out, last="a") as aside:
        (aside / "a").write_text("a")
    assert made == [out] and [path.name for path in out.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="in vain"), filling(out, last="a") as aside:
        raise ValueError("in vain")
    assert [path.name for path in out.iterdir()] == ["a"]


def test_a_bug_is_not_taken_for_a_place() -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file", "/usr/lib/ours")
    assert writable.explain(error, [("out", "/home/me/out")]) is None
    assert writable.explain(OSError("no number"), [("out", "out")]) is None
    message = writable.explain(
        OSError(errno.EIO, "Input/output error", b"/home/me"), [("out", "x")]
    )
    assert message and message.startswith("/home/me cannot be written (Input/output error)")
