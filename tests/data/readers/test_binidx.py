"""RWKV's and Megatron's binidx: its bytes, and what is told of a damaged one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from data.readers.binidx import documents, write

DOCUMENTS = [[5, 6, 7, 0], [8, 0], [9] * 3000 + [0]]


def arrays() -> list[list[np.ndarray]]:
    return [[np.array(ids[:2]), np.array(ids[2:], dtype=np.int64)] for ids in DOCUMENTS]


def read(index: Path) -> list[list[int]]:
    return [np.concatenate([*run.blocks()]).tolist() for run in documents(index)]


def test_its_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    """Written down by hand from Megatron's `indexed_dataset.py`."""
    assert write(tmp_path / "deep" / "a", arrays(), 65536) == 3007
    flat = [id_ for ids in DOCUMENTS for id_ in ids]
    assert (tmp_path / "deep" / "a.bin").read_bytes() == struct.pack("<3007H", *flat)
    expected = b"MMIDIDX\0\0" + struct.pack("<QB", 1, 8) + struct.pack("<QQ", 3, 4)
    expected += struct.pack("<3i", 4, 2, 3001) + struct.pack("<3q", 0, 8, 12)
    expected += struct.pack("<4q", 0, 1, 2, 3)
    assert (tmp_path / "deep" / "a.idx").read_bytes() == expected


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a", arrays(), 65536)
    assert read(tmp_path / "a.idx") == DOCUMENTS
    write(tmp_path / "a", arrays(), 65537)
    assert read(tmp_path / "a.idx") == DOCUMENTS
    assert (tmp_path / "a.bin").stat().st_size == 4 * 3007


def test_documents_of_several_sequences_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "a", arrays(), 65536)
    content = (tmp_path / "a.idx").read_bytes()
    head = content[:17] + struct.pack("<BQQ", 8, 3, 3)
    (tmp_path / "a.idx").write_bytes(head + content[34:-32] + struct.pack("<3q", 0, 2, 3))
    assert read(tmp_path / "a.idx") == [DOCUMENTS[0] + DOCUMENTS[1], DOCUMENTS[2]]


def test_a_failure_writes_neither_file(tmp_path: Path) -> None:
    def failing() -> object:
        yield [np.array([1])]
        raise UserError("changed")

    with pytest.raises(UserError):
        write(tmp_path / "new" / "a", failing(), 300)
    assert not (tmp_path / "new").exists() or [*(tmp_path / "new").iterdir()] == []


@pytest.mark.parametrize("cut", [1, 8, 40, 60, 80])
def test_an_index_cut_short_is_told(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "a", arrays(), 65536)
    path = tmp_path / "a.idx"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"a\.idx: (cut short|is no index)"):
        read(path)


def test_tokens_cut_short_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a", arrays(), 65536)
    path = tmp_path / "a.bin"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"a\.bin: cut short: document 3 ends at byte 6,014 of 1,0"):
        read(tmp_path / "a.idx")
    path.unlink()
    with pytest.raises(UserError, match=r"a\.bin: no such file"):
        read(tmp_path / "a.idx")


@pytest.mark.parametrize("place", [9, 17, 18, 26, 34, 46, 70, 78, 94])
def test_a_damaged_index_is_one_message(tmp_path: Path, place: int) -> None:
    write(tmp_path / "a", arrays(), 65536)
    path = tmp_path / "a.idx"
    content = bytearray(path.read_bytes())
    content[place] ^= 0x77
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.(idx|bin): "):
        read(path)
