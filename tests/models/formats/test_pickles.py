"""Files that stand for more than anybody could hold are refused before they are unpickled."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from models.formats import pickles
from models.formats.tensor_files import read_torch


def cyclic() -> Any:
    content: dict[str, Any] = {"x": torch.zeros(2)}
    content["model"] = content
    return content


def lists(levels: int = 15) -> Any:
    tree: Any = [1]
    for _ in range(levels):
        tree = [tree] * 50
    return {"x": tree}


def nested(depth: int) -> Any:
    tree: Any = [1]
    for _ in range(depth):
        tree = [tree]
    return tree


def tuples(levels: int) -> bytes:
    """A dict whose one name is a pair of pairs of pairs."""
    text = b"\x80\x02}q\xff)q\x00"
    for level in range(levels):
        text += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return text + b"K\x01s."


def filled_later() -> bytes:
    """Lists that already lie in each other when the first one is filled."""
    text = b"\x80\x02]q\x00" + b"(" + b"K\x01" * 50 + b"e"
    for level in range(1, 10):
        text += b"]q" + bytes([level]) + b"(" + b"h" + bytes([level - 1])
        text += (b"h" + bytes([level - 1])) * 49 + b"e"
    return text + b"."


def archived(path: Path, text: bytes) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, text if name.endswith("data.pkl") else source.read(name))
        target.writestr("archive/pad", bytes(100))


def older(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


BOMBS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a dict in itself": ("a value that holds itself", lambda path: torch.save(cyclic(), path)),
    "the same, older": ("a value that holds itself", lambda path: older(cyclic(), path)),
    "shared lists": ("more than 10,000,000 values", lambda path: torch.save(lists(), path)),
    "the same, older ": ("more than 10,000,000 values", lambda path: older(lists(), path)),
    "a name of tuples": ("more than 10,000,000 values", lambda path: archived(path, tuples(60))),
    "the same, bare": ("more than 10,000,000 values", lambda path: path.write_bytes(tuples(60))),
    "lists filled later": (
        "more than 10,000,000 values", lambda path: archived(path, filled_later())
    ),
    "depth": ("nested more than 100 deep", lambda path: torch.save(nested(200), path)),
    "a name too deep to hash": (
        "nested more than 100 deep",
        lambda path: archived(path, b"\x80\x02}K\x01" + b"\x85" * 20_000 + b"K\x01s."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_never_end_is_refused(tmp_path: Path, bomb: str) -> None:
    said, make = BOMBS[bomb]
    path = tmp_path / "a.pth"
    make(path)
    with pytest.raises(UserError, match=rf"a\.pth holds .*{said}, as no file of weights does"):
        read_torch(path)


def test_what_is_too_long_to_be_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    monkeypatch.setattr(pickles, "OPCODES", 1000)
    torch.save([1.0] * 2000, path)
    with pytest.raises(UserError, match="more than 1,000 steps"):
        read_torch(path)
    monkeypatch.setattr(pickles, "HEAD", 500)
    older(["x" * 600], path)
    with pytest.raises(UserError, match="more than 500 bytes"):
        read_torch(path)


def test_what_people_save_is_read(tmp_path: Path) -> None:
    shared = torch.zeros(3)
    named = OrderedDict({f"a.{n}": torch.full((2,), float(n)) for n in range(50)})
    named._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    content = {
        "state_dict": named | {"tied": shared, "same": shared},
        "seen": {1, 2},
        "names": {(1, (2, "x")): torch.nn.Parameter(shared)},
        "losses": [0.5] * 3000,
        "twice": [[1, 2]] * 2,
        "betas": (0.9, 0.99),
        "long": 1 << 100,
    }
    for write in (torch.save, older):
        write(content, tmp_path / "a.pth")
        found = read_torch(tmp_path / "a.pth")
        assert found["losses"] == content["losses"] and found["twice"] == [[1, 2], [1, 2]]
        assert found["names"].keys() == {(1, (2, "x"))} and found["long"] == 1 << 100
        assert torch.equal(found["state_dict"]["a.49"], torch.full((2,), 49.0))


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + tuples(60),
        b"\x80\x02}q\x00a.",
        b"\x80\x02h\x07.",
        b"(0.",
        b"\x80\x02(K\x01\x86.",
        b"",
        pickle.dumps(1)[:-1],
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    ],
)
def test_what_cannot_be_parsed_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a file of weights"):
        read_torch(tmp_path / "a.pth")
