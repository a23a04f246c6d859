"""What preparing a corpus costs over its tokenizer alone: `python benchmarks/preparation.py`.

Text made of the sources that this machine has is written to a folder of its own and prepared in a
fresh process; the tokenizer alone encodes the same text, in memory, cut into the same pieces: in
one process, and, if that uses a single processor, in as many as there are processors, which share
the texts and have loaded the tokenizer before. All take turns. Memory is the most that all
processes hold together, pages that they share counted once, looked at every 50 ms. Where other work
shares the processors, processor time tells more than the clock. A second start opens the corpus
again, in a fresh process, beside one of 10 MB.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.preparation:main")


import argparse
import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Row, Samples, interleave, parse, parser, publish, table
from conf.schema import DataConf
from core.environment import ROOT
from core.processes import processors
from data import corpora, tokenizers
from data.encoding import GROUP, Pieces
from data.rwkv_world_tokenizer import VOCABULARY
from data.text import TextTokenizer
from data.tokenizers import LibraryTokenizer

KINDS = ("bpe", "file", "world")
VOCAB_SIZE = 3072
_GLANCE = 0.05  # seconds between looks at the memory
_FILES = 12_000  # sources that texts are drawn from
_PREPARE = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
import numpy as np
from conf.schema import DataConf
from data.store import prepare
from data.token_rows import TokenRows
begun = time.perf_counter()
corpus = prepare(DataConf(**json.loads(sys.argv[2])))
row = TokenRows(corpus).tokens(np.array([0]), 16)
print(time.perf_counter() - begun)
"""
_ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from benchmarks.preparation import encode_alone
from conf.schema import DataConf
from data import tokenizers
tokenizer, conf = tokenizers.load(sys.argv[2]), DataConf(**json.loads(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
encode_alone(tokenizer, conf, *map(int, sys.argv[4:]))
"""


def main() -> None:
    """Write the text, run the rounds and print the table."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--megabytes", type=int, default=100, help="of text")
    made.add_argument("--alone", type=int, default=0, help="MB that it encodes alone; 0: all")
    made.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of tokenizers")
    made.add_argument("--limit", type=float, default=2.0, help="GiB of data of each process; 0: no")
    made.add_argument("--folder", type=Path, help="folder for texts and tokens; default: /tmp's")
    arguments = parse(made)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        publish(
            "Preparing a corpus",
            table(
                (
                    "tokenizer",
                    "MB of text",
                    "alone, MB/s",
                    "on all processors",
                    "preparation, MB/s",
                    "share of alone (min to max)",
                    "of all processors",
                    "of processor time",
                    "peak, MiB",
                    "second start, s",
                    "with 10 MB",
                    "its memory, MiB",
                    "with 10 MB",
                ),
                rows(arguments, Path(folder)),
            ),
            packages=("tokenizers", "ahocorasick_rs"),
            arguments=arguments,
        )


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A row for each tokenizer."""
    megabytes: int = arguments.megabytes
    size = write_texts(folder / "large", megabytes * 10**6)
    write_texts(folder / "small", min(megabytes, 10) * 10**6)
    limit = int(arguments.limit * 2**30)
    conf = DataConf(**settings(folder / "large", "bytes", folder))
    (files,) = shares(conf, 1, arguments.alone * 10**6)
    encoded = sum(file.stat().st_size for file in files)
    for kind in arguments.kinds:
        path, own = tokenizer_of(kind, folder)
        large, small = (
            settings(folder / name, path, folder / f"cache-{kind}-{name}")
            for name in ("large", "small")
        )
        peaks: list[int] = []
        spent: dict[str, list[float]] = {}  # processor time of each round

        def preparation(
            conf: dict[str, Any] = large,
            peaks: list[int] = peaks,
            spent: dict[str, list[float]] = spent,
        ) -> float:
            conf["cache_dir"] += "+"  # a new folder
            seconds, peak, processor = prepared(conf, limit)
            peaks.append(peak)
            spent.setdefault("preparation", []).append(processor)
            shutil.rmtree(conf["cache_dir"].removesuffix("+"), ignore_errors=True)
            return seconds

        def side_by_side(
            count: int,
            conf: dict[str, Any] = large,
            own: Path = own,
            spent: dict[str, list[float]] = spent,
        ) -> float:
            seconds, processor = alone(own, conf, count, arguments.alone * 10**6)
            whole = size / encoded  # as long as it would take for all
            spent.setdefault(str(count), []).append(processor * whole)
            return seconds * whole

        # Those of the library use all processors by themselves.
        counts = {1, processors()} if kind == "world" else {1}
        pieces = {str(count): partial(side_by_side, count) for count in sorted(counts)}
        times = interleave(pieces | {"preparation": preparation}, arguments.rounds, warmup=0)
        prepared(small, limit)
        again = [prepared(conf, limit) for conf in (large, small)]
        most = str(max(counts))
        processor = Samples(tuple(spent[most])).over(Samples(tuple(spent["preparation"])))
        yield Row(kind, (
            f"{size / 1e6:,.0f}",
            *(f"{times[each].rates(size / 1e6).median:.2f}" for each in ("1", most, "preparation")),
            *(times[each].over(times["preparation"]).spread() for each in ("1", most)),
            processor.spread(),
            f"{max(peaks) / 2**20:,.0f}",
            *(f"{seconds:.2f}" for seconds, _, _ in again),
            *(f"{peak / 2**20:,.0f}" for _, peak, _ in again),
        ))  # fmt: skip


def settings(texts: Path, tokenizer: str, cache: Path) -> dict[str, Any]:
    """The words of a `DataConf` for all files in a folder."""
    return {
        "corpus": "text", "paths": [str(texts / "*.txt")], "markup": True, "tokenizer": tokenizer,
        "vocab_size": VOCAB_SIZE, "cache_dir": str(cache),
    }  # fmt: skip


def encode_alone(
    tokenizer: TextTokenizer, conf: DataConf, number: int, count: int, size: int
) -> None:
    """Encode one of `count` shares of the text, 1 Mi characters at a time, and keep nothing."""
    group, held = list[str](), 0
    cutter = Pieces(tokenizer.cut)
    for path in shares(conf, count, size)[number]:
        for piece in cutter.push(path.read_bytes().decode(), True):
            group.append(piece)
            held += len(piece)
            if held >= GROUP:
                _encode(tokenizer, group)
                group, held = [], 0
    _encode(tokenizer, group)


def _encode(tokenizer: TextTokenizer, group: list[str]) -> None:
    if isinstance(tokenizer, LibraryTokenizer):
        tokenizer._tokenizer.encode_batch_fast(group, add_special_tokens=False)
    else:
        tokenizer.encode_many(group)


def shares(conf: DataConf, count: int, size: int = 0) -> list[list[Path]]:
    """The first files of a corpus that have `size` bytes, or all, in `count` shares about equal."""
    every = [Path(file) for file in corpora.documents(conf).files]  # type: ignore[attr-defined]
    ends = [*accumulate(file.stat().st_size for file in every)]
    files = every[: bisect_left(ends, size) + 1] if size else every
    found: list[list[Path]] = [[] for _ in range(count)]
    held = [0] * count
    for file in sorted(files, key=lambda file: file.stat().st_size, reverse=True):
        least = held.index(min(held))
        found[least].append(file)
        held[least] += file.stat().st_size
    return found


def alone(tokenizer: Path, conf: dict[str, Any], count: int, size: int = 0) -> tuple[float, float]:
    """Seconds in which `count` processes encode `shares`, and processor time of them all."""
    words = [sys.executable, "-c", _ALONE, str(ROOT), str(tokenizer), json.dumps(conf)]
    children = [
        subprocess.Popen(
            [*words, str(number), str(count), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(count)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise SystemExit("the tokenizer alone has ended: its message is above")
        before = sum(sum(psutil.Process(child.pid).cpu_times()[:2]) for child in children)
        begun = time.perf_counter()
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"\n")
            child.stdin.flush()
        _, processor = watch(children)
        return time.perf_counter() - begun, processor - before
    finally:
        for child in children:
            child.kill()


def prepared(conf: dict[str, Any], limit: int) -> tuple[float, int, float]:
    """Seconds of `prepare` in a fresh process; bytes of memory and processor time with children."""
    words = [sys.executable, "-c", _PREPARE, str(ROOT), json.dumps(conf), str(limit)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    peak, processor = watch([process])
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"the preparation has ended with status {process.returncode}")
    return float(process.stdout.read()), peak, processor


def watch(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, float]:
    """Wait for processes; the most memory and the processor time of them and all below them.

    Memory is proportional: a page that processes share counts once, split among them.
    """
    peak, spent = 0, dict[int, float]()
    while any(child.poll() is None for child in children):
        held = 0
        for child in children:
            with suppress(psutil.Error):
                process = psutil.Process(child.pid)
                for each in (process, *process.children(recursive=True)):
                    with suppress(psutil.Error):
                        held += each.memory_full_info().pss
                        spent[each.pid] = sum(each.cpu_times()[:2])
        peak = max(peak, held)
        time.sleep(_GLANCE)
    return peak, sum(spent.values())


def tokenizer_of(kind: str, folder: Path) -> tuple[str, Path]:
    """What `data.tokenizer` is given, and the file of a tokenizer of that kind."""
    if kind == "world":
        package = importlib.util.find_spec("rwkv")
        if package is None or package.origin is None:
            raise SystemExit("the vocabulary comes with the package rwkv: pip install rwkv")
        path = Path(package.origin).with_name(VOCABULARY)
        return str(path), path
    path = folder / "tokenizer.json"
    if not path.exists():
        files = sorted((folder / "small").iterdir())
        tokenizers.train_bpe((file.read_text() for file in files), VOCAB_SIZE).save(path)
    return "bpe" if kind == "bpe" else str(path), path


def write_texts(folder: Path, size: int) -> int:
    """Files of text with `size` bytes together or a little more; returns how many.

    Each is put together of sources' lines, in which a word becomes another one, so that no two are
    alike.
    """
    folder.mkdir()
    texts, written, number = sources(), 0, 0
    while written < size:
        goal, held = min(random.choice((20_000, 200_000, 2_000_000, 20_000_000)), size // 10), 0
        parts = list[str]()
        while held < goal:
            part = passage(random.choice(texts))
            parts.append(part)
            held += len(part)
        content = "\n".join(parts).encode()
        (folder / f"{number:06}.txt").write_bytes(content)
        written, number = written + len(content), number + 1
    return written


def passage(lines: Sequence[str]) -> str:
    """Some consecutive lines, one of whose words is another one wherever it stands."""
    first = random.randrange(len(lines))
    text = "\n".join(lines[first : first + random.randrange(20, 400)])
    word = re.search(r"\b[a-z]{5,}\b", text)
    return text.replace(word[0], f"{word[0][::-1]}{random.randrange(1000)}") if word else text


def sources() -> list[list[str]]:
    """The lines of files of text that come with Python and its packages."""
    found = []
    for base in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(base).rglob("*")):
            if path.suffix not in (".py", ".md", ".rst", ".txt", ".pyi") or not path.is_file():
                continue
            with suppress(OSError, UnicodeDecodeError):
                text = path.read_text(encoding="utf-8")
                if 500 < len(text) < 200_000 and "\0" not in text:
                    found.append(text.split("\n"))
            if len(found) == _FILES:
                break
    return found
