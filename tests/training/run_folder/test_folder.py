"""What lies in a run's folder: named with file and line, never waited for or written through."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import UserError
from core.files import damage, write_manifest
from models.formats.run_checkpoints import saved
from tracking.jsonl import read_rows
from tracking.lightning_loggers import JsonlLogger
from tracking.wandb_run import run_id
from training.run_folder.folder import RunFolder
from training.run_folder.lock import owned, refusal

PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a circle": lambda path: path.symlink_to(path),
    "a broken link": lambda path: path.symlink_to(path.with_name("nowhere")),
}
FILES = ("config", "metrics", "tokenizer", "start", "summary_path", "best")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.checkpoints.mkdir(parents=True)
    return made


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_no_file_is_named_and_left(folder: RunFolder, kind: str) -> None:
    for name in FILES:
        path: Path = getattr(folder, name)
        PLACES[kind](path)
        with pytest.raises(UserError, match=r"move it away, and the run goes on") as refused:
            folder.check()
        assert str(path) in str(refused.value) and os.path.lexists(path)
        if name == "summary_path":  # and not that it will be written again
            with pytest.raises(UserError, match=r"move it away, and the run goes on"):
                folder.summary()
        path.rmdir() if path.is_dir() else path.unlink()
    PLACES[kind](folder.path / "wandb")
    if kind == "a folder":
        folder.check()
        return
    with pytest.raises(UserError, match="wandb is not a folder"):
        folder.check()


def test_leftovers_that_are_none_of_ours_are_let_be(folder: RunFolder) -> None:
    (folder.path / ".a.1.tmp").mkdir()
    (folder.path / ".b.22.tmp").write_text("half")
    (folder.path / ".c.3.tmp").symlink_to(".c.3.tmp")
    (folder.path / ".mine.tmp").write_text("chapter one")
    folder.sweep()
    left = {path.name for path in folder.path.iterdir()}
    assert left == {".a.1.tmp", ".mine.tmp", "checkpoints"}


@pytest.mark.parametrize("kind", PLACES)
def test_a_lock_is_a_file_of_its_own(folder: RunFolder, kind: str) -> None:
    PLACES[kind](folder.lock)
    with pytest.raises(UserError, match="lock is not a file"), owned(folder):
        pass


def test_a_lock_is_not_written_through_a_link(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("chapter one")
    folder.lock.symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match="lock is not a file"), owned(folder):
        pass
    assert (tmp_path / "thesis").read_text() == "chapter one"


def test_a_folder_deleted_meanwhile_hides_no_message(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="what was wrong"), owned(folder):
        shutil.rmtree(folder.path)
        raise UserError("what was wrong")


@pytest.mark.parametrize("text", ["", "7", "[" * 99_999, '{"since": 1e300, "pid": 1, "host": "a"}'])
def test_an_unreadable_owner_is_another_process(folder: RunFolder, text: str) -> None:
    folder.lock.write_text(text)
    assert "worked on by another process" in refusal(folder)


def test_the_folder_of_checkpoints_is_one(folder: RunFolder) -> None:
    assert saved(folder.path) == []
    folder.checkpoints.rmdir()
    assert saved(folder.path) == []
    folder.checkpoints.write_text("")
    with pytest.raises(UserError, match="checkpoints is no folder that can be read"):
        saved(folder.path)
    folder.checkpoints.unlink()
    folder.checkpoints.symlink_to("nowhere")
    with pytest.raises(UserError, match="a link that leads nowhere"):
        saved(folder.path)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("", "is unreadable: not JSON"),
        ("[" * 999, "is unreadable: nested"),
        ("[1]", "is unreadable: holds a list"),
        ("{}", "is unreadable: it names no bytes"),
        ('{"bytes": "1", "sha256": ""}', "1 bytes instead of 1"),
        ('{"bytes": 1, "sha256": 7}', "SHA-256 differs"),
        ("x" * 5000, "is unreadable: larger than"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_damage(tmp_path: Path, manifest: str, said: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_text("a")
    path.with_suffix(".json").write_text(manifest)
    assert said in (damage(path) or "")
    path.with_suffix(".json").unlink()
    os.mkfifo(path.with_suffix(".json"))
    assert "is unreadable: a pipe" in (damage(path) or "")
    path.unlink()
    os.mkfifo(path)
    assert damage(path) == "a pipe, not a file"


ROW = '{"step": 1, "train/loss": 2.5}\n'
LINES = {
    "7\n": "line 2: a number, not an object",
    "null\n": "line 2: nothing, not an object",
    "[1]\n": "line 2: a list, not an object",
    "{}\n": "line 2: no row: its step is None",
    '{"step": "1"}\n': "line 2: no row: its step is '1'",
    '{"step": -1}\n': "line 2: no row: its step is -1",
    '{"step": 1e300}\n': "line 2: no row: its step is 1e+300",
    '{"step": true}\n': "line 2: no row: its step is True",
    '{"step": 1, "a": "x"}\n': "line 2: no row: 'a' is no number",
    "[" * 99_999 + "\n": "line 2: nested more than 50 deep",
    "\udcff\n": "line 2: not UTF-8",
    "x" * (2 << 20) + "\n": "line 2: longer than 1,048,576 bytes",
}


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_that_is_no_row_is_left_out_and_kept_aside(
    folder: RunFolder, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = (ROW + line + ROW.replace("1", "2") + '{"step": 3').encode(errors="surrogateescape")
    folder.metrics.write_bytes(content)
    assert [row["step"] for row in read_rows(folder.metrics)] == [1, 2]
    JsonlLogger(folder.metrics).rewind(1)
    assert folder.metrics.read_text() == ROW
    assert f"{folder.metrics}, {LINES[line]}: left out" in caplog.text
    assert (folder.path / "metrics.damaged-1.jsonl").read_bytes() == content


def test_a_row_cut_short_by_a_crash_is_no_damage(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.metrics.write_text(ROW + '{"step": 2')
    JsonlLogger(folder.metrics).rewind(5)
    assert folder.metrics.read_text() == ROW and not caplog.text
    JsonlLogger(folder.metrics).rewind(0)
    assert folder.metrics.read_text() == ""
    assert "has rows up to step 1, but no checkpoint was saved" in caplog.text
    folder.metrics.unlink()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has 0 rows up to step 3, not the 2 that had been written"),
        (lambda text: text.splitlines(keepends=True)[0], "has 1 rows up to step 3, not the 2"),
        (lambda text: text + text, "has 3 rows up to step 3, not the 2"),
        (lambda text: text.replace("2.5", "2.4"), "has 2 rows up to step 3, not the 2"),
        (lambda text: text, ""),
        (lambda text: text + '{"step": 4, "train/loss": 1.0}\n{"step": 5', ""),
    ],
)
def test_rows_are_those_that_a_checkpoint_knows(
    folder: RunFolder,
    content: Callable[[str], str] | None,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = JsonlLogger(folder.metrics)
    logger.rewind(0)
    for step in (1, 3):
        logger.log_metrics({"train/loss": 2.5, "val/loss": float("nan")}, step)
    text = folder.metrics.read_text()
    folder.metrics.unlink()
    if content is not None:
        folder.metrics.write_text(content(text))
    again = JsonlLogger(folder.metrics)
    again.rewind(3, logger.written())
    assert said in caplog.text and bool(said) == bool(caplog.text)
    if not said:
        assert folder.metrics.read_text() == text and again.written() == logger.written()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": "3"}, "steps is missing or wrong"),
        ({"steps": True}, "steps is missing or wrong"),
        ({"steps": 10**30}, "it was changed"),
        ({"digest": "abd"}, "it was changed"),
        ({"val_loss": 1.0}, "it was changed"),
    ],
)
def test_a_summary_that_was_changed_is_written_again(
    folder: RunFolder, change: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    written = folder.write_summary({"steps": 3, "digest": "abc", "val_loss": float("nan")})
    assert str(folder.summary()) == str(written) and not caplog.text
    folder.summary_path.write_text(json.dumps({**written, **change}))
    assert folder.summary() is None
    assert f"{folder.summary_path}: {said}" in caplog.text


def test_a_summary_is_of_the_checkpoint_beside_it(folder: RunFolder, tmp_path: Path) -> None:
    def save(run: RunFolder, step: int, content: str) -> None:
        path = run.checkpoints / f"step-{step:08d}.ckpt"
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        write_manifest(path)

    other = RunFolder(tmp_path / "other")
    save(other, 3, "theirs")
    save(folder, 3, "ours")
    other.write_summary({"steps": 3})
    assert other.summary() is not None
    folder.summary_path.write_text(other.summary_path.read_text())
    assert folder.summary() is None
    folder.write_summary({"steps": 3})
    assert folder.summary() is not None
    save(folder, 5, "going on for longer")  # and interrupted: it has finished step 3 all the same
    assert folder.summary() is not None
    folder.summary_path.write_text('{"steps": 3}')  # written before it was sealed
    assert folder.summary() == {"steps": 3}


@pytest.mark.parametrize("text", ["", "two words", "../a", "\udcff", "x" * 5000])
def test_an_id_of_wandb_that_is_none_is_made_again(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wandb" / "first.id"
    assert run_id(path) == run_id(path) and not caplog.text
    path.write_bytes(text.encode(errors="surrogateescape"))
    made = run_id(path)
    assert made.startswith("first-") and run_id(path) == made
    assert caplog.text.count("another wandb run begins") == 1
