"""Files that were read before are not read again, and any that changed are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conf.schema import DataConf
from core.parsing import read_bytes
from data import known_files, notices
from data.documents import Split
from data.store import prepare


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConf:
    monkeypatch.setattr(known_files, "SETTLED", -(10**12))  # as if an hour had passed
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"part {i} of the corpus\n" * (40 + i))
    return DataConf(
        corpus="text",
        paths=[str(tmp_path / "texts" / "*.txt")],
        tokenizer="bytes",
        length=8,
        val_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )


def reads(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Prepare; how often documents were read through, and the fingerprint."""
    count = 0

    def counted(*arguments: object) -> Split:
        nonlocal count
        count += 1
        return split(*arguments)

    split = known_files.split_in_two
    with monkeypatch.context() as patch:
        patch.setattr(known_files, "split_in_two", counted)
        fingerprint = prepare(conf).fingerprint
    return count, fingerprint


def table(conf: DataConf) -> Path:
    (path,) = (Path(conf.cache_dir) / "known").iterdir()
    return path


def test_a_second_start_reads_no_text(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reads(conf, monkeypatch)
    assert first[0] == 1
    assert reads(conf, monkeypatch) == (0, first[1])
    conf.verify = True
    assert reads(conf, monkeypatch) == (1, first[1])


def rewrite(folder: Path) -> None:
    (folder / "3.txt").write_text("another text " * 60)


def rewrite_unseen(folder: Path) -> None:
    """Other bytes, as many as before, and the time of modification set back."""
    path = folder / "3.txt"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"corpus", b"korpus"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def add(folder: Path) -> None:
    (folder / "new.txt").write_text("one more " * 60)


def remove(folder: Path) -> None:
    (folder / "3.txt").unlink()


def rename(folder: Path) -> None:
    (folder / "3.txt").rename(folder / "three.txt")


@pytest.mark.parametrize("change", [rewrite, rewrite_unseen, add, remove, rename])
def test_whatever_changes_is_read(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    before = prepare(conf).fingerprint
    change(Path(conf.paths[0]).parent)
    count, after = reads(conf, monkeypatch)
    assert count == 1
    assert after != before


def test_other_words_are_another_corpus(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepare(conf).fingerprint
    conf.val_fraction = 0.3
    count, after = reads(conf, monkeypatch)
    assert (count, after != before) == (1, True)


def test_a_file_written_a_moment_ago_is_not_trusted(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "SETTLED", time.time_ns())
    first = reads(conf, monkeypatch)
    assert reads(conf, monkeypatch) == first


def test_some_files_are_read_at_every_start(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(conf)
    monkeypatch.setattr(known_files, "SAMPLES", 30)
    assert reads(conf, monkeypatch)[0] == 0
    monkeypatch.setattr(known_files, "sha256", lambda path: "0" * 64)
    assert reads(conf, monkeypatch)[0] == 1


@pytest.mark.parametrize("place", range(0, 5000, 331))
def test_a_damaged_table_is_not_believed(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    fingerprint = prepare(conf).fingerprint
    content = bytearray(read_bytes(table(conf)))
    content[place % len(content)] ^= 1
    table(conf).write_bytes(content)
    assert reads(conf, monkeypatch) == (1, fingerprint)
    assert reads(conf, monkeypatch) == (0, fingerprint)


@pytest.mark.parametrize("harm", [Path.unlink, Path.mkdir, os.mkfifo])
def test_a_table_that_is_none_is_not_read(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object]
) -> None:
    fingerprint = prepare(conf).fingerprint
    path = table(conf)
    path.unlink()
    if harm is not Path.unlink:
        harm(path)
    assert reads(conf, monkeypatch) == (1, fingerprint)


def test_a_cache_that_cannot_be_written_is_no_error(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(conf.cache_dir).mkdir()
    (Path(conf.cache_dir) / "known").touch()
    first = reads(conf, monkeypatch)
    assert reads(conf, monkeypatch) == first


def test_what_was_left_out_is_told_again(
    conf: DataConf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = "".join(f'{{"text": "line {i} of a text"}}\n' for i in range(20))
    (tmp_path / "a.jsonl").write_text(f"{lines}no JSON\n{{}}\n")
    conf = replace(conf, corpus="jsonl", paths=[str(tmp_path / "a.jsonl")], on_bad="skip")
    said = f"left out 2 of 22 records; the first: {tmp_path}/a.jsonl:21: "
    for reader, read in (("jsonl", 1), ("jsonl", 0), ("files", 1), ("files", 0)):
        monkeypatch.setattr(notices, "once", set())
        assert reads(replace(conf, corpus=reader), monkeypatch)[0] == read
        assert capfd.readouterr().err.count(said) == 1


def test_what_killed_starts_have_left_goes(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Path(conf.cache_dir) / "known"
    known.mkdir(parents=True)
    old, new = known / ".0123456789abcdef.77.tmp", known / ".0123456789abcdef.78.tmp"
    for path in (old, new):
        path.write_text("half of a table")
    os.utime(old, (0, 0))
    reads(conf, monkeypatch)
    assert not old.exists() and new.exists()
