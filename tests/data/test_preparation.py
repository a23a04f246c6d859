"""Preparing a corpus: stopped anywhere and continued, in shards, to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import encoding, preparation, shards, tokenizers
from data.documents import SIDES
from data.shards import PROGRESS
from data.store import Corpus, prepare
from tests.data.test_store import contents, flip, pipe

TEXT = "".join(f"Row {i}, row {i * i}, row your boat ü\n" for i in range(900))


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConf:
    """Documents of several shards each, and others of which a shard has several."""
    monkeypatch.setattr(preparation, "SHARD", 4000)
    monkeypatch.setattr(encoding, "WINDOW", 2000)
    in_pieces = tokenizers.LibraryTokenizer.cut
    monkeypatch.setattr(
        tokenizers.LibraryTokenizer, "cut", lambda self, text: in_pieces(self, text, 700)
    )
    monkeypatch.setattr("data.readers.sources.PART", 1500)
    (tmp_path / "texts").mkdir()
    for i, size in enumerate((12_000, 300, 900, 2, 5000, 400, 9000)):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"part {i}\n{TEXT[i * 500 : i * 500 + size]}")
    return DataConf(
        corpus="text",
        paths=[str(tmp_path / "texts" / "*.txt")],
        vocab_size=300,
        length=8,
        val_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )


def left(conf: DataConf) -> list[str]:
    """What lies in the cache, beside the table of known files."""
    return [path.name for path in Path(conf.cache_dir).iterdir() if path.name != "known"]


def interrupted(conf: DataConf, monkeypatch: pytest.MonkeyPatch, saves: int) -> Path:
    """Prepare until so many shards are saved; the folder that this leaves."""
    add = shards.Done.add

    def stop(self: shards.Done, folder: Path, shard: dict[str, object]) -> None:
        if len(self.shards) == saves:
            raise KeyboardInterrupt
        add(self, folder, shard)

    with monkeypatch.context() as patch:
        patch.setattr(shards.Done, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(conf)
    return next(Path(conf.cache_dir).glob("*.partial"), Path(conf.cache_dir))


def whole(conf: DataConf) -> dict[str, bytes]:
    corpus = prepare(conf)
    found = contents(corpus.folder)
    shutil.rmtree(corpus.folder)
    return found


def encoded_bytes(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> tuple[Corpus, int]:
    """Prepare; the bytes of text that were encoded for it."""
    sizes: list[int] = []
    encode = tokenizers.LibraryTokenizer.encode_many

    def counted(self: tokenizers.LibraryTokenizer, texts: list[str], *how: Any) -> list[list[int]]:
        sizes.append(sum(len(text.encode()) for text in texts))
        return encode(self, texts, *how)

    with monkeypatch.context() as patch:
        patch.setattr(tokenizers.LibraryTokenizer, "encode_many", counted)
        return prepare(conf), sum(sizes)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_stopped_anywhere_it_ends_in_the_same_bytes(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    conf.tokenizer = kind
    sound = whole(conf)
    total = sum(path.stat().st_size for path in Path(conf.paths[0]).parent.iterdir())
    for saves in (1, 2, 4):
        partial = interrupted(conf, monkeypatch, saves)
        shards = json.loads((partial / PROGRESS).read_text())["shards"]
        assert len(shards) == saves
        done = sum(shards[-1][side]["text"] for side in SIDES)
        corpus, encoded = encoded_bytes(conf, monkeypatch)
        assert encoded == total - done
        assert contents(corpus.folder) == sound
        shutil.rmtree(corpus.folder)
    assert left(conf) == []


def test_before_the_first_shard_nothing_is_left(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(conf, monkeypatch, saves=0) == Path(conf.cache_dir)
    assert left(conf) == []


def test_stopped_before_it_is_renamed_it_need_not_be_done_again(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is sealed nothing is encoded again, and no leftover of a kill is part of it."""
    sound = whole(conf)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("core.atomic_folders._replace", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(conf)
    (partial,) = Path(conf.cache_dir).glob("*.partial")
    (partial / ".manifest.json.123.tmp").write_text("{")
    corpus, encoded = encoded_bytes(conf, monkeypatch)
    assert encoded == 0 and contents(corpus.folder) == sound


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("harm", [cut, flip, lengthen, pipe, link, Path.unlink])
def test_what_was_left_is_not_believed(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object]
) -> None:
    conf.tokenizer = "bytes"
    sound = whole(conf)
    for name in ("train.bin", "val.bin", "tokenizer.json", PROGRESS):
        harm(interrupted(conf, monkeypatch, saves=2) / name)
        folder = prepare(conf).folder
        assert contents(folder) == sound, name
        shutil.rmtree(folder)


def test_no_digit_of_the_progress_is_believed(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count of text that is another one would leave text out, or have it in twice."""
    conf.tokenizer = "bytes"
    sound = whole(conf)
    path = interrupted(conf, monkeypatch, saves=1) / PROGRESS
    text = path.read_text()
    places = [match.end() for match in re.finditer(r'"(text|size)": ', text)]
    assert len(places) == 5
    for place in places:
        partial = path.parent if path.parent.exists() else interrupted(conf, monkeypatch, saves=1)
        other = (int(text[place]) + 1) % 10
        (partial / PROGRESS).write_text(f"{text[:place]}{other}{text[place + 1 :]}")
        folder = prepare(conf).folder
        assert contents(folder) == sound
        shutil.rmtree(folder)


def test_what_was_left_of_another_corpus_is_not_used(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = whole(conf)
    changes = {"val_fraction": 0.4, "cache_dir": f"{conf.cache_dir}2"}
    other = interrupted(DataConf(**{**vars(conf), **changes}), monkeypatch, saves=2)
    partial = interrupted(conf, monkeypatch, saves=1)
    shutil.rmtree(partial)
    other.rename(partial)
    assert contents(prepare(conf).folder) == sound


def test_a_text_that_cannot_be_encoded_leaves_nothing(conf: DataConf, tmp_path: Path) -> None:
    tokenizers.char_tokenizer(set(TEXT + "part") - {"ü"}).save(tmp_path / "ascii.json")
    conf.tokenizer = str(tmp_path / "ascii.json")
    with pytest.raises(UserError, match=r"'ü'"):
        prepare(conf)
    assert left(conf) == []


def test_progress_is_said_where_there_is_no_terminal(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparation, "_SPOKEN", 0.0)
    interrupted(conf, monkeypatch, saves=3)
    capfd.readouterr()
    prepare(conf)
    said = capfd.readouterr().err
    assert "going on with the preparation of text at " in said
    assert "preparing text: 53%" in said and " left\n" in said


def test_a_sample_of_a_large_text_is_that_of_the_smallest_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The formula written out, on all pieces at once."""
    monkeypatch.setattr(tokenizers, "TRAINING_SAMPLE", 1000)
    pieces = [f"{i} " * (1 + i % 40) for i in range(300)]
    by_hash = sorted(pieces, key=lambda piece: hashlib.sha256(piece.encode()).digest())
    expected, held = [], 0
    for piece in by_hash:
        held += len(piece.encode())
        if held > 1000:
            break
        expected.append(piece)
    assert tokenizers._sample(iter(pieces)) == expected
    assert tokenizers._sample(iter(pieces[:5])) == pieces[:5]
    assert tokenizers._sample(["a" * 2000, "b" * 3000]) == ["a" * 2000]


def test_a_text_that_was_another_one_for_a_while_leaves_none_of_it(
    conf: DataConf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with a long document shows at its end, after shards of it are saved."""
    path = tmp_path / "long.txt"
    text = "".join(f"{i} green bottles\n" for i in range(2000))
    path.write_text(text)
    conf.paths, conf.tokenizer = [str(path)], "bytes"
    sound = whole(conf)
    encode = preparation._encode

    def changed(*arguments: Any) -> None:
        path.write_text(text.upper())
        encode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_encode", changed)
        assert (interrupted(conf, monkeypatch, saves=2) / PROGRESS).exists()
    path.write_text(text)
    assert contents(prepare(conf).folder) == sound
