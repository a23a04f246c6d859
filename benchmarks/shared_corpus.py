"""What a corpus costs several processes: `python benchmarks/shared_corpus.py`.

Text is written to a folder of its own. Then one process, and as many as asked for at once, prepare
it and read it, each its rows of the same batches, until every window has been read once, as a
training does. What the data costs is what of its files is in the kernel's memory (once, whoever
reads them), and what each process holds of its own: its proportional set size (Linux: pages that
several processes map count in parts) when all have read the corpus, less that before it was opened.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.shared_corpus:main")


import argparse
import ctypes
import json
import mmap
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, parse, parser, publish, table
from benchmarks.preparation import write_texts
from core.environment import ROOT

LENGTH = 1024
ROWS = 8  # of a batch for each process
_READER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
conf, rank, world = json.loads(sys.argv[2])
import time
import torch  # as in a training, which has it anyway
from conf.schema import DataConf
from data import separate_process, store
from data.batches import Batches
from data.mixture import open_data

made = []
for place, name in ((store, "fill"), (separate_process, "fill_apart")):
    fill = getattr(place, name)
    setattr(place, name, lambda *asked, fill=fill: (made.append(1), fill(*asked)))

def held():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024

def wait(word):
    print(word, flush=True)
    sys.stdin.readline()

wait("ready")
before = held()
begun = time.perf_counter()
data = open_data(DataConf(**conf))
batches = Batches(data, DataConf(**conf), 0, rank, world)
opened = time.perf_counter() - begun
wait("opened")
read = 0
for step in range(-(-batches.order.windows // conf["batch_size"])):
    read += batches[step].numel()
wait("read")
print(json.dumps([before, held(), data.meta.train_tokens, len(made), opened, read]), flush=True)
sys.stdin.readline()
"""


def main() -> None:
    """Write the text, prepare and read it, and print the table."""
    made = parser(__doc__, rounds=1)
    made.add_argument("--megabytes", type=int, default=400, help="of text; two of tokens for each")
    made.add_argument("--processes", type=int, default=8, help="that read together")
    made.add_argument("--folder", type=Path, help="folder for texts and tokens; default: /tmp's")
    arguments = parse(made)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        publish(
            "One corpus in several processes",
            table(
                (
                    "processes", "MB of tokens", "preparations", "until opened, s",
                    "files in memory, MB", "of the processes, MB", "both, over those of one",
                ),
                rows(arguments, Path(folder)),
            ),
            packages=("tokenizers",),
            arguments=arguments,
        )  # fmt: skip


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A row for the preparation by all at once, for one process, and for all."""
    write_texts(folder / "texts", arguments.megabytes * 10**6)
    conf: dict[str, Any] = {
        "corpus": "text", "paths": [str(folder / "texts" / "*.txt")], "tokenizer": "bytes",
        "length": LENGTH, "batch_size": ROWS * arguments.processes, "markup": True,
        "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    first = together(conf, arguments.processes)
    one = together(conf, 1)
    several = together(conf, arguments.processes)
    size = one[0][2] * 2
    files = sum(map(in_memory, (folder / "cache").rglob("*.bin")))
    alone = files + grown(one)
    cases = {"which prepare it": first, "again": one, "at once": several}
    for case, found in cases.items():
        yield Row(f"{len(found)}, {case}", (
            f"{size / 1e6:,.0f}",
            str(sum(each[3] for each in found)),
            f"{max(each[4] for each in found):.2f}",
            f"{files / 1e6:,.0f}",
            f"{grown(found) / 1e6:,.0f}",
            f"{(files + grown(found)) / alone:.2f}",
        ))  # fmt: skip


def grown(found: list[list[float]]) -> float:
    """Bytes that processes hold more than before they opened the corpus; see `together`."""
    return sum(after - before for before, after, *_ in found)


def in_memory(path: Path) -> int:
    """Bytes of a file that the kernel holds in memory (`mincore`)."""
    content = np.memmap(path, np.uint8, "r")
    pages = np.zeros(-(-content.size // mmap.PAGESIZE), np.uint8)
    place, length = ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.size)
    if ctypes.CDLL(None, use_errno=True).mincore(place, length, ctypes.c_void_p(pages.ctypes.data)):
        raise OSError(ctypes.get_errno(), f"mincore of {path}")
    return int((pages & 1).sum()) * mmap.PAGESIZE


def together(conf: dict[str, Any], count: int) -> list[list[float]]:
    """What each of `count` processes tells: memory before and after, tokens, preparations."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, str(ROOT), json.dumps([conf, rank, count])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        for word in ("ready", "opened", "read"):
            for child in children:
                told(child, word)
            for child in children:
                go_on(child)
        found = [json.loads(told(child)) for child in children]
        for child in children:
            go_on(child)
        for child in children:
            child.wait()
        return found
    finally:
        for child in children:
            child.kill()


def told(child: subprocess.Popen[str], word: str | None = None) -> str:
    """The next line of a process, which is `word` if there is one."""
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line or (word is not None and line != word):
        raise SystemExit("a process has ended before it had read the corpus: its message is above")
    return line


def go_on(child: subprocess.Popen[str]) -> None:
    """Let a process that waits continue."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
