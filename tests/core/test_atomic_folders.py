"""Folders appear whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.atomic_folders import make_folder


def write(content: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "file").write_text(content)

    return fill


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sound(folder: Path) -> bool:
    return (folder / "file").is_file()


def test_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "it", write("a"), sound)
    assert (tmp_path / "new" / "it" / "file").read_text() == "a"
    assert names(tmp_path / "new") == ["it"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise error

    with pytest.raises(error):
        make_folder(tmp_path / "it", fill, sound)
    assert names(tmp_path) == []


def test_a_sound_folder_that_came_first_stays(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        make_folder(tmp_path / "it", write("faster"), sound)
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
    for name, age in ((old, 30 * 3600), (f"broken.{old}", 30 * 3600), (new, 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    make_folder(tmp_path / "it", write("a"), sound)
    assert names(tmp_path) == [new, "it"]


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
