"""Several processes that encode: the ids of one, and none of them left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psutil
import pytest

from core.environment import ROOT
from core.errors import UserError
from data import foreign
from data.encoding import NOT_LEARNED, SPECIAL, Encodes
from data.foreign import Foreign
from data.rwkv_world_tokenizer import WorldTokenizer

WORDS = [b"row", b"row ", b" your", b" boat", "\u00fcber".encode(), b"\n\n", b"  ", b"boat, row"]
LINE = "row row your boat, row \u00fcber boat\n\n"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "world.txt"
    tokenizer = WorldTokenizer([*(bytes([i]) for i in range(256)), *WORDS])
    path.write_text(tokenizer.vocabulary())
    return path


@pytest.fixture
def texts() -> list[str]:
    draw = random.Random(0)
    sizes = (600_000, 3, 0, 100, 300_000, 70_000, 1)
    return [draw.choice("abc") + (LINE * (size // 20))[:size] for size in sizes]


def ids_of(encoder: Encodes, texts: list[str]) -> Iterator[int]:
    """With parts that end anywhere, marks, and a flush in the middle."""
    for number, text in enumerate(texts):
        middle = len(text) // 3
        parts = [(text[:middle], True, False, 0), (text[middle:], False, True, NOT_LEARNED)]
        for part in [*parts, ("<|endoftext|>", False, True, SPECIAL)]:
            yield from chain.from_iterable(ids for ids, _ in encoder.push(*part))
        if number == 3:
            yield from chain.from_iterable(ids for ids, _ in encoder.flush())
    yield from chain.from_iterable(ids for ids, _ in encoder.flush())


def in_processes(
    path: Path, count: int, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> tuple[list[int], list[int]]:
    """The ids of two sequences at once, and the processes that there were."""
    monkeypatch.setattr(foreign, "processors", lambda: count)
    monkeypatch.setattr(foreign, "REQUEST", 1 << 18)
    with Foreign(path) as file:
        file.try_on([])
        turns = zip(
            ids_of(file.encoder(), texts), ids_of(file.encoder(), [*texts[::-1]]), strict=False
        )
        return [*chain.from_iterable(turns)], file._pids


def gone(pids: list[int]) -> bool:
    """Whether all of them end within some seconds."""
    end = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_several_processes_give_the_ids_of_one(
    world: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, alone = in_processes(world, 1, monkeypatch, texts)
    several, pids = in_processes(world, 3, monkeypatch, texts)
    assert (len(alone), len(pids)) == (1, 4)
    assert several == one and len(one) > 100_000
    assert gone(pids)


def test_a_text_that_is_none_is_refused_and_the_next_is_not(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "processors", lambda: 2)
    with Foreign(world) as file:
        file.try_on([])
        encoder = file.encoder()
        with pytest.raises(UserError, match="not valid Unicode"):
            list(ids_of(encoder, ["a" * 70_000 + "\udcff"]))
        assert next(ids_of(file.encoder(), ["row"])) == 0


@pytest.mark.parametrize(
    "which",
    [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))],
    ids=["the first", "one", "another"],
)
def test_one_of_them_that_dies_is_one_message(
    world: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    monkeypatch.setattr(foreign, "processors", lambda: 2)
    with Foreign(world) as file:
        file.try_on([])
        encoder = file.encoder()
        pids = [*file._pids]
        os.kill(pids[which], signal.SIGKILL)
        with pytest.raises(UserError, match="or the library crashes on it"):
            for _ in range(3):
                list(ids_of(encoder, texts))
    assert gone(pids)


KILLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
sys.path.insert(0, sys.argv[1])
from data import foreign
foreign.processors = lambda: 3
with foreign.Foreign(sys.argv[2]) as file:
    file.try_on([])
    encoder = file.encoder()
    print(*file._pids, flush=True)
    while True:
        list(encoder.push("row your boat " * 9999, True, True))
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_none_outlives_the_one_that_started_it(world: Path, stop: signal.Signals) -> None:
    words = [sys.executable, "-c", KILLED, str(ROOT), str(world)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        pids = [*map(int, child.stdout.readline().split())]
        time.sleep(0.2)
        child.send_signal(stop)
        child.wait(timeout=60)
    finally:
        child.kill()
    assert len(pids) == 4 and gone(pids)
