"""Folders appear whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import atomic_folders


def write(content: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "file").write_text(content)

    return fill


def make_folder(folder: Path, fill: Callable[[Path], None], sound: Callable[[Path], bool]) -> None:
    atomic_folders.make_folder(folder, fill, sound, lambda: None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sound(folder: Path) -> bool:
    return (folder / "file").is_file()


def test_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "it", write("a"), sound)
    assert (tmp_path / "new" / "it" / "file").read_text() == "a"
    assert names(tmp_path / "new") == ["it"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        make_folder(tmp_path / "it", fill, sound)
    assert names(tmp_path) == []


def test_what_was_written_before_an_interruption_is_found_again(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        found.append(names(folder))
        write("half")(folder)
        if len(found) == 1:
            raise KeyboardInterrupt

    found: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / ("a" * 16), fill, sound)
    assert names(tmp_path) == [f"{'a' * 16}.partial"]
    make_folder(tmp_path / ("a" * 16), fill, sound)
    assert found == [[], ["file"]]
    assert names(tmp_path) == ["a" * 16]


def test_a_sound_folder_that_came_first_stays(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (tmp_path / "it").mkdir()  # by a process for which the locks do not hold
        write("faster")(tmp_path / "it")
        write("slower")(folder)

    make_folder(tmp_path / "it", fill, sound)
    assert (tmp_path / "it" / "file").read_text() == "faster"
    assert names(tmp_path) == ["it"]


def test_an_unsound_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "rubbish").touch()
    make_folder(tmp_path / "it", write("new"), sound)
    assert names(tmp_path / "it") == ["file"]
    assert names(tmp_path) == ["it"]


def test_old_leftovers_are_swept_and_work_in_progress_is_not(tmp_path: Path) -> None:
    old, new = (f"{letter * 16}.{letter * 8}.tmp" for letter in "ab")
    stopped, resumable = (f"{letter * 16}.partial" for letter in "cd")
    day = 24 * 3600
    for name, age in (
        (old, 2 * day), (f"broken.{old}", 2 * day), (new, 60), (stopped, 15 * day),
        (resumable, 13 * day),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    make_folder(tmp_path / "it", write("a"), sound)
    assert names(tmp_path) == [new, resumable, "it"]


def _make_in_child(folder: Path, told: Any, release: Any) -> None:
    def fill(aside: Path) -> None:
        told.put("fills")
        release.wait(60)
        write("a")(aside)

    def waiting() -> None:
        told.put("waits")
        release.set()

    atomic_folders._PATIENCE = 0.0
    atomic_folders.make_folder(folder, fill, sound, waiting)
    told.put("has it" if sound(folder) else "has nothing")


def test_one_process_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told, release = context.Queue(), context.Event()
    arguments = (tmp_path / "it", told, release)
    children = [context.Process(target=_make_in_child, args=arguments) for _ in range(2)]
    children[0].start()
    assert told.get(timeout=60) == "fills"
    children[1].start()
    for child in children:
        child.join()
    assert sorted(told.get(timeout=60) for _ in range(3)) == ["has it", "has it", "waits"]
    assert names(tmp_path) == ["it"]


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "it.lock").touch()
    make_folder(tmp_path / "it", write("a"), sound)
    assert names(tmp_path) == ["it"]


def test_without_locks_each_process_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    def fill(folder: Path) -> None:
        make_folder(tmp_path / ("0" * 16), write("another's"), sound)
        assert names(folder) == []
        write("ours")(folder)

    monkeypatch.setattr("core.atomic_folders.fcntl.lockf", refuse)
    make_folder(tmp_path / ("0" * 16), fill, sound)
    assert names(tmp_path) == ["0" * 16]
    assert (tmp_path / ("0" * 16) / "file").read_text() == "another's"


def test_what_others_keep_beside_it_is_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tmp", "project.tmp", "x.12345678.tmp", f"broken.{'a' * 16}.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chapter").write_text("one")
        os.utime(tmp_path / name, (time.time() - 30 * 24 * 3600,) * 2)
    before = names(tmp_path)
    make_folder(tmp_path / "it", write("a"), sound)
    assert names(tmp_path) == sorted([*before, "it"])
    assert (tmp_path / "thesis.tmp" / "chapter").read_text() == "one"


@pytest.mark.parametrize("kind", ["file", "pipe", "link"])
def test_what_is_no_folder_is_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "it", tmp_path / "other"
    other.mkdir()
    {"file": path.touch, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(other)}[
        kind
    ]()
    make_folder(path, write("a"), sound)
    assert (path / "file").read_text() == "a" and not path.is_symlink()
    assert names(tmp_path) == ["it", "other"] and names(other) == []
