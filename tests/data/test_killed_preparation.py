"""Preparations that are killed at any instant and started again, alone or beside another one."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conf.schema import DataConf
from data import preparation, shards
from data.store import prepare
from data.tokenizers import LibraryTokenizer
from tests.data.test_store import contents

SHARD = 1 << 15  # bytes of text
LARGEST = 24_000  # bytes of a document, which are read and encoded together
PATIENCE = 120.0  # seconds, for a machine that does something else
KILLS, PAIRS = 6, 3  # of each tokenizer

Log = list[tuple[str, int]]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> DataConf:
    """About twenty shards, of documents of many sizes."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(3)
    for number in range(60):
        line = f"{number} green bottles, {draw.random()} ü\n"
        size = draw.randrange(LARGEST - 100)
        (folder / f"{number}.txt").write_text((line * (size // len(line) + 1))[:size])
    return DataConf(
        corpus="text", paths=[str(folder / "*.txt")], vocab_size=300, length=8, val_fraction=0.2
    )


class Start(NamedTuple):
    """One start of the preparation, in a process of its own."""

    process: Any
    begun: Any
    log: Path

    def read(self) -> Log:
        """What it did: where it `began` (bytes of text), `shard`s saved, bytes `encoded`."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(what, int(number)) for what, number in map(str.split, lines)]

    def end(self) -> int:
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self, delay: float) -> bool:
        """Kill it so many seconds after it has begun; whether it was still at work."""
        assert self.begun.wait(PATIENCE)
        time.sleep(delay)
        self.process.kill()
        return self.end() != 0


def start(conf: DataConf, log: Path) -> Start:
    context = multiprocessing.get_context("forkserver")
    begun = context.Event()
    process = context.Process(target=_prepare, args=(conf, str(log), begun))
    process.start()
    return Start(process, begun, log)


def _prepare(conf: DataConf, log: str, begun: Any) -> None:
    """The same command, with small shards; every line of the log is one write."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(what: str, number: int) -> None:
        os.write(file, f"{what} {number}\n".encode())

    add, encode = shards.Done.add, preparation._encode
    encode_many = LibraryTokenizer.encode_many

    def added(self: Any, *arguments: Any) -> None:
        add(self, *arguments)
        say("shard", len(self.shards))

    def begin(*arguments: Any) -> None:
        say("began", sum(arguments[5].text().values()))
        encode(*arguments)

    def encoded(self: Any, texts: list[str], *how: Any) -> list[list[int]]:
        say("encoded", sum(len(text.encode()) for text in texts))
        return encode_many(self, texts, *how)

    patched: Any = preparation
    patched.SHARD, patched._encode = SHARD, begin
    shards.Done.add = added  # type: ignore[method-assign, assignment]
    LibraryTokenizer.encode_many = encoded  # type: ignore[method-assign, assignment]
    begun.set()
    prepare(conf)


def check(logs: list[Log], cache: Path, sound: dict[str, bytes]) -> None:
    """The bytes of a preparation that nobody has killed, and no shard's work done twice."""
    (folder,) = (path for path in cache.iterdir() if path.name != "known")
    assert contents(folder) == sound
    shards = [number for log in logs for what, number in log if what == "shard"]
    assert shards == sorted(set(shards))
    began = [[number for what, number in log if what == "began"] for log in logs]
    places = [number for each in began for number in each]
    assert places == sorted(places)
    work = [sum(number for what, number in log if what == "encoded") for log in logs]
    total = sum(size for size in work if size)
    useful = total_bytes(logs)
    assert total <= useful + (len(places) - 1) * (SHARD + LARGEST)


def total_bytes(logs: list[Log]) -> int:
    """What the last start encoded, and what it found done."""
    last = next(log for log in reversed(logs) if any(what == "began" for what, _ in log))
    return sum(number for what, number in last if what in ("began", "encoded"))


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def undisturbed(
    request: pytest.FixtureRequest, conf: DataConf, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConf, dict[str, bytes], float]:
    """A configuration, the bytes that it prepares, and how long that takes."""
    folder = tmp_path_factory.mktemp(request.param)
    conf = replace(conf, tokenizer=request.param, cache_dir=str(folder / "cache"))
    one = start(conf, folder / "log")
    assert one.begun.wait(PATIENCE)
    begun = time.monotonic()
    assert one.end() == 0
    seconds = time.monotonic() - begun
    log = one.read()
    assert log[0] == ("began", 0) and 10 < sum(what == "shard" for what, _ in log) < 40
    (prepared,) = (path for path in Path(conf.cache_dir).iterdir() if path.name != "known")
    return conf, contents(prepared), seconds


def test_killed_anywhere_it_ends_in_the_same_bytes(
    undisturbed: tuple[DataConf, dict[str, bytes], float], tmp_path: Path
) -> None:
    conf, sound, seconds = undisturbed
    conf = replace(conf, cache_dir=str(tmp_path / "cache"))
    draw, logs = random.Random(1), list[Log]()
    for kills in range(1, KILLS + 1):
        one = start(conf, tmp_path / f"{kills}.log")
        killed = one.kill(draw.uniform(0, 0.7 * seconds))
        logs.append(one.read())
        if not killed or kills == KILLS:
            last = start(conf, tmp_path / f"{kills}-last.log")
            assert last.end() == 0
            check([*logs, last.read()], Path(conf.cache_dir), sound)
            shutil.rmtree(conf.cache_dir)
            logs = []


def test_of_two_at_once_one_is_killed(
    undisturbed: tuple[DataConf, dict[str, bytes], float], tmp_path: Path
) -> None:
    """The other waits, or works on, and does nothing that the killed one has done."""
    conf, sound, seconds = undisturbed
    draw = random.Random(2)
    for trial in range(PAIRS):
        folder = tmp_path / str(trial)
        folder.mkdir()
        mine = replace(conf, cache_dir=str(folder / "cache"))
        pair = [start(mine, folder / f"{number}.log") for number in range(2)]
        victim, other = draw.sample(pair, 2)
        victim.kill(draw.uniform(0, seconds))
        assert other.end() == 0
        again = start(mine, folder / "again.log")
        assert again.end() == 0 and again.read() == []
        logs = [each.read() for each in (victim, other)]
        check([log for log in logs if log], Path(mine.cache_dir), sound)
