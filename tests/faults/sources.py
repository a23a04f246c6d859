"""What `data.paths` can be pointed at."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from conf.schema import DataConf
from data import corpora
from tests.faults.hostile import NO_FILES, tell
from tests.faults.trial import Trial


def source(place: Path, draw: random.Random) -> Trial:
    """Point `data.paths` at something."""
    name, make = draw.choice([*SOURCES.items()])
    patterns = make(place, draw)
    conf = DataConf(corpus="text", paths=patterns, markup=draw.random() < 0.3)
    told = tell(lambda: corpora.load(conf))
    what = f"data.paths: {name}: {', '.join(map(repr, patterns))[:120]}"
    if told.problem is None and told.message:
        try:
            told.message.encode()
        except UnicodeEncodeError:
            return what, "a message that cannot be printed"
    return what, told.problem


Source = Callable[[Path, random.Random], list[str]]
SOURCES: dict[str, Source] = {}


def sources(name: str) -> Callable[[Source], Source]:
    def add(function: Source) -> Source:
        SOURCES[name] = function
        return function

    return add


@sources("no file")
def _(place: Path, draw: random.Random) -> list[str]:
    draw.choice([*NO_FILES.values()])(place / "it")
    return [str(place / draw.choice(("it", "*", "i?", "**/it", "**")))]


@sources("the kernel's own files")
def _(place: Path, draw: random.Random) -> list[str]:
    known: tuple[str, ...] = (
        "/proc/kmsg",
        "/proc/kcore",
        "/proc/self/mem",
        "/proc/self/pagemap",
        "/proc/cpuinfo",
    )
    globs = ("/proc/*", "/proc/**/*", "/proc/*/*", "/proc/self/**/fd/*", "/sys/**/*", "/dev/*")
    known += ("/proc/self/fd/0", "/dev/stdin", "/dev/zero", "/dev/random", "/dev/ptmx", "/dev/tty")
    return [draw.choice((*known, *globs))]


@sources("a name")
def _(place: Path, draw: random.Random) -> list[str]:
    length = draw.choice((1, 20, 255, 256, 4000, 4096, 70_000))
    letters = draw.choice(("x", "x/", "*", "*/", "**/", "[", "?", "\udcff", "é", "~", "\n", "'"))
    name = (letters * length)[:length]
    return [draw.choice((name, str(place / name), f"~{name}", f"{place}/*/{name}"))]


@sources("a glob")
def _(place: Path, draw: random.Random) -> list[str]:
    tree(place, draw)
    parts = [
        "".join(draw.choices("*?[]!-.a0x{}\\~ ", k=draw.randrange(1, 6)))
        if draw.random() < 0.5
        else draw.choice(("**", "*", "..", ".", "a", "*.txt", "loop", "[!a]*"))
        for _ in range(draw.randrange(1, 30))
    ]
    return ["/".join((str(place), *parts))]


def tree(place: Path, draw: random.Random) -> None:
    """Folders with texts, and with links that make every path endlessly long."""
    for name in ("a.txt", "a/b.txt", "a/a/c.txt", "x/d.md"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(f"the text of {name} " * draw.randrange(1, 50))
    for i in range(draw.randrange(12)):
        (place / draw.choice(("", "a", "a/a")) / f"loop{i}").symlink_to(place)


@sources("a file that cannot be read")
def _(place: Path, draw: random.Random) -> list[str]:
    path = place / "a.txt"
    path.write_text("text " * 99)
    path.chmod(0)
    return [str(draw.choice((path, place / "*")))]


@sources("a sparse file")
def _(place: Path, draw: random.Random) -> list[str]:
    with (place / "a.txt").open("wb") as file:
        file.write(draw.choice((b"", b"some text\n" * 9000)))
        file.truncate(draw.choice((1 << 33, 1 << 36, 1 << 43)))
    return [str(place / "*")]


PIECES = (
    "<!---->", "<!--", "-->", '"', '",', "[", "{", '{"a":', "<a ", "<a>", "\\", "\ufeff", " ", "\t",
    "<|endoftext|>", "`<|endoftext|>", "a,b\n", "\r", "<?xml ", "0" * 50, "1e9,", "((", "[[],",
)  # fmt: skip


@sources("a hostile text")
def _(place: Path, draw: random.Random) -> list[str]:
    piece = draw.choice(PIECES)
    ends = draw.choice(("", "x", ">", "</a>", "<html>", "]", '"', "\n"))
    text = piece * draw.randrange(1, 1 + 300_000 // len(piece)) + ends
    (place / draw.choice(("a.txt", "a.json", "a.csv", "a"))).write_text(text)
    return [str(place / "*")]


@sources("bytes that are no text")
def _(place: Path, draw: random.Random) -> list[str]:
    heads = (b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"%PDF-", b"\xff\xfe", b"\x80\x04", b"{", b"")
    content = draw.choice(heads) + draw.randbytes(draw.randrange(2000))
    (place / "a.txt").write_bytes(content)
    return [str(place / "a.txt")]


@sources("a name that is not UTF-8")
def _(place: Path, draw: random.Random) -> list[str]:
    name = os.fsdecode(b"caf" + bytes([draw.randrange(128, 256)]) + b".txt")
    (place / name).write_text("text " * 99)
    return [str(place / draw.choice((name, "*", "**/*")))]
