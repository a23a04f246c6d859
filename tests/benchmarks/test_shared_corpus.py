"""Several processes on one corpus: prepared by one of them, read by all."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest

from benchmarks import shared_corpus


def conf_of(folder: Path) -> dict[str, Any]:
    return {
        "corpus": "text", "paths": [str(folder / "text.txt")], "tokenizer": "bytes",
        "length": 64, "batch_size": 8, "cache_dir": str(folder / "cache"),
    }  # fmt: skip


@pytest.mark.slow
def test_two_processes_prepare_once_and_share_the_batches(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"line number {i}\n" for i in range(9000)))
    found = shared_corpus.together(conf_of(tmp_path), 2)
    assert sum(each[3] for each in found) == 1
    assert all(after > before > 0 for before, after, *_ in found)
    assert found[0][5] == found[1][5] > found[0][2] / 2  # every window, half of them each


def test_what_was_read_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(10 * mmap.PAGESIZE + 1))
    assert path.read_bytes() and shared_corpus.in_memory(path) == 11 * mmap.PAGESIZE
    assert shared_corpus.grown([[1, 3], [10, 14]]) == 6
