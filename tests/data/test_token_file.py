"""Files of tokens that somebody writes to, cuts or replaces at any instant of their use."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import token_file
from data.batches import Batches, all_validation
from data.export import documents
from data.file_change_guard import FileChangeGuard
from data.manifest import BLOCK
from data.store import Corpus, prepare

MESSAGE = "while it was in use|are not those prepared|no such file|cannot be read"


@pytest.fixture
def conf(tmp_path: Path) -> DataConf:
    text = "".join(f"{i} green bottles\n" for i in range(6_000))
    (tmp_path / "text.txt").write_text(text)
    return DataConf(
        corpus="text", paths=[str(tmp_path / "text.txt")], tokenizer="bytes", length=32,
        batch_size=64, val_fraction=0.5, cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace(path: Path) -> None:
    content = bytearray(path.read_bytes())
    other = path.with_name("other")
    other.write_bytes(content[::-1])
    other.replace(path)


def overwrite(path: Path) -> None:
    """Other tokens in place, and the time of the last change set back, as `rsync --inplace` may."""
    times = path.stat()
    with path.open("r+b") as file:
        file.write(path.read_bytes()[2:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


HARMS = [cut, empty, replace, overwrite, Path.unlink]
USES: dict[str, tuple[str, Callable[[Corpus, DataConf], object]]] = {
    "train": ("train.bin", lambda corpus, conf: Batches(corpus, conf, 0)[0]),
    "validate": ("val.bin", lambda corpus, conf: [*all_validation(corpus, 32, 64)]),
    "export": ("val.bin", lambda corpus, _: [[*each] for each in documents(corpus, "val")]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("instant", [0, 1])
def test_a_file_that_changes_between_a_check_and_the_reading_is_one_message(
    conf: DataConf,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
    harm: Callable[[Path], None],
    instant: int,
) -> None:
    """A process that maps the file dies of SIGBUS there."""
    corpus, (name, read) = prepare(conf), USES[use]
    check, left = FileChangeGuard.check, [instant]

    def checked(guard: FileChangeGuard) -> None:
        check(guard)
        left[0] -= 1
        if left[0] == -1:
            harm(corpus.folder / name)

    monkeypatch.setattr(FileChangeGuard, "check", checked)
    with pytest.raises(UserError, match=MESSAGE):
        read(corpus, conf)
        read(corpus, conf)


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_changes_between_two_batches_is_one_message(
    conf: DataConf, harm: Callable[[Path], None]
) -> None:
    batches = Batches(corpus := prepare(conf), conf, 0)
    for step in range(4):
        batches[step]
    harm(corpus.folder / "train.bin")
    with pytest.raises(UserError, match=MESSAGE):
        for step in range(4):
            batches[step]


def test_a_file_of_other_rights_or_names_is_still_the_same(conf: DataConf, tmp_path: Path) -> None:
    corpus = prepare(conf)
    batches = Batches(corpus, conf, 0)
    before = batches[0]
    (corpus.folder / "train.bin").chmod(0o600)
    (tmp_path / "backup").hardlink_to(corpus.folder / "train.bin")
    assert batches[0].equal(before)


def test_what_is_read_are_the_tokens_of_the_file(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = prepare(conf)
    whole = np.fromfile(corpus.folder / "train.bin", corpus.meta.dtype)
    monkeypatch.setattr(token_file, "_AT_ONCE", 1000)
    assert np.array_equal(corpus.train[:], whole) and len(corpus.train) == len(whole)
    starts = [0, BLOCK // 2 - 3, len(whole) - 7]
    assert corpus.train.rows(starts, 7).tolist() == [whole[i : i + 7].tolist() for i in starts]
    assert corpus.train[5:3].size == 0 and corpus.train[-2:].tolist() == whole[-2:].tolist()
    with pytest.raises(ValueError, match="one after the other"):
        corpus.train[::2]


def test_no_process_dies_of_a_file_that_is_cut_while_it_reads(conf: DataConf) -> None:
    corpus = prepare(conf)
    sound = corpus.folder.with_name("sound")
    shutil.copytree(corpus.folder, sound)
    for number in range(4):
        shutil.rmtree(corpus.folder)
        shutil.copytree(sound, corpus.folder)
        corpus = prepare(conf)
        reads, writes = os.pipe()
        if not (child := os.fork()):
            status = 1
            try:
                batches, step = Batches(corpus, conf, 0), 0
                while True:
                    batches[step]
                    step += 1
                    if step == 1 + number:
                        os.write(writes, b"x")
            except UserError:
                status = 3
            finally:
                os._exit(status)
        os.read(reads, 1)
        os.truncate(corpus.folder / "train.bin", 10_000 * number)
        _, ended = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(ended) == 3, signal.Signals(ended & 127)
        os.close(reads)
        os.close(writes)
