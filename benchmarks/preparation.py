"""What preparing a corpus costs over its tokenizer alone: `python benchmarks/preparation.py`.

Text made of the sources that this machine has is written to a folder of its own and prepared in a
fresh process; the tokenizer alone encodes the same text, in memory, cut into the same pieces. Both
take turns. Memory is the largest sum of all processes' resident pages, looked at every 50 ms. A
second start opens the corpus again, in a fresh process, beside one of 10 MB.
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
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Row, interleave, parse, parser, publish, table, timed
from conf.schema import DataConf
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
print(json.dumps([time.perf_counter() - begun, corpus.meta.train_tokens + corpus.meta.val_tokens]))
"""


def main() -> None:
    """Write the text, run the rounds and print the table."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--megabytes", type=int, default=100, help="of text")
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
                    "preparation, MB/s",
                    "share of alone (min to max)",
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
    for kind in arguments.kinds:
        path, tokenizer = tokenizer_of(kind, folder)
        large, small = (
            settings(folder / name, path, folder / f"cache-{kind}-{name}")
            for name in ("large", "small")
        )
        peaks: list[int] = []

        def preparation(conf: dict[str, Any] = large, peaks: list[int] = peaks) -> float:
            conf["cache_dir"] += "+"  # a new folder
            seconds, peak = prepared(conf, limit)
            peaks.append(peak)
            return seconds

        alone = timed(alone_on(tokenizer, DataConf(**large)))
        pieces = {"alone": alone, "preparation": preparation}
        times = interleave(pieces, arguments.rounds, warmup=0)
        prepared(small, limit)
        again = [prepared(conf, limit) for conf in (large, small)]
        yield Row(kind, (
            f"{size / 1e6:,.0f}",
            f"{times['alone'].rates(size / 1e6).median:.2f}",
            f"{times['preparation'].rates(size / 1e6).median:.2f}",
            times["alone"].over(times["preparation"]).spread(),
            f"{max(peaks) / 2**20:,.0f}",
            *(f"{seconds:.2f}" for seconds, _ in again),
            *(f"{peak / 2**20:,.0f}" for _, peak in again),
        ))  # fmt: skip


def settings(texts: Path, tokenizer: str, cache: Path) -> dict[str, Any]:
    """The words of a `DataConf` for all files in a folder."""
    return {
        "corpus": "text", "paths": [str(texts / "*.txt")], "markup": True, "tokenizer": tokenizer,
        "vocab_size": VOCAB_SIZE, "cache_dir": str(cache),
    }  # fmt: skip


def alone_on(tokenizer: TextTokenizer, conf: DataConf) -> Callable[[], None]:
    """Encode the whole text, 1 Mi characters at a time, and keep nothing."""

    def groups() -> Iterator[list[str]]:
        group, held = list[str](), 0
        cutter = Pieces(tokenizer.cut)
        for document in corpora.documents(conf):
            content = "".join(part.decode() for part in document.parts())
            for piece in cutter.push(content, True):
                group.append(piece)
                held += len(piece)
                if held >= GROUP:
                    yield group
                    group, held = [], 0
        yield group

    def encode() -> None:
        for group in groups():
            if isinstance(tokenizer, LibraryTokenizer):
                library = tokenizer._tokenizer
                library.encode_batch_fast(group, add_special_tokens=False)
            else:
                tokenizer.encode_many(group)

    return encode


def prepared(conf: dict[str, Any], limit: int) -> tuple[float, int]:
    """Seconds of `prepare` in a fresh process, and bytes of memory of it and its children."""
    words = [sys.executable, "-c", _PREPARE, str(Path(__file__).parents[1]), json.dumps(conf)]
    process = subprocess.Popen([*words, str(limit)], stdout=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(_GLANCE)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"the preparation has ended with status {process.returncode}")
    return json.loads(process.stdout.read())[0], peak


def memory(pid: int) -> int:
    """Resident bytes of a process and of all below it; pages that they share count for each."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += each.memory_info().rss
    return total


def tokenizer_of(kind: str, folder: Path) -> tuple[str, TextTokenizer]:
    """What `data.tokenizer` is given, and the tokenizer of that kind."""
    if kind == "world":
        package = importlib.util.find_spec("rwkv")
        if package is None or package.origin is None:
            raise SystemExit("the vocabulary comes with the package rwkv: pip install rwkv")
        path = Path(package.origin).with_name(VOCABULARY)
        return str(path), tokenizers.load(path)
    path = folder / "tokenizer.json"
    if not path.exists():
        files = sorted((folder / "small").iterdir())
        tokenizers.train_bpe((file.read_text() for file in files), VOCAB_SIZE).save(path)
    return "bpe" if kind == "bpe" else str(path), tokenizers.load(path)


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
