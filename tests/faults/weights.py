"""Files of weights that are malicious or foreign, and what each must lead to: a clear refusal.

Every payload, were it executed, would leave a file behind; see `make`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from core.files import write_manifest

Maker = Callable[[Path, "Payload"], Path]
MAKERS: dict[str, Maker] = {}


class Payload:
    """Unpickled, it runs a command that makes `marker`."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def make(folder: Path, marker: Path) -> dict[str, Path]:
    """Every file below `folder`, by name; executing any would make `marker`."""
    payload, made = Payload(marker), {}
    for number, (name, maker) in enumerate(MAKERS.items()):
        own = folder / f"{number:02d}"
        own.mkdir(parents=True)
        made[name] = maker(own, payload)
    return made


def file(name: str, filename: str = "a.pth") -> Callable[[Callable[..., bytes | None]], Any]:
    """Register a function that returns the bytes of `filename`, or has written it itself."""

    def add(function: Callable[..., bytes | None]) -> Any:
        def maker(folder: Path, payload: Payload) -> Path:
            path = folder / filename
            content = function(path, payload)
            if content is not None:
                path.write_bytes(content)
            return path

        MAKERS[name] = maker
        return function

    return add


def saved(content: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return buffer.getvalue()


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@file("os.system in a zip archive")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"emb.weight": payload})


@file("os.system in torch's older format")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"emb.weight": payload}, _use_new_zipfile_serialization=False)


@file("os.system in a bare pickle")
def _(path: Path, payload: Payload) -> bytes:
    return pickle.dumps(payload)


@file("os.system in text of protocol 0")
def _(path: Path, payload: Payload) -> bytes:
    return f"(S'{payload.command}'\nios\nsystem\n.".encode()


@file("exec")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"a": Call(exec, f"import os; os.system({payload.command!r})")})


@file("eval between tensors")
def _(path: Path, payload: Payload) -> bytes:
    code = f"__import__('os').system({payload.command!r})"
    return saved({"a": torch.zeros(3), "b": [1, (Call(eval, code), torch.ones(2))]})


@file("a pickle in a pickle")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"a": Call(pickle.loads, pickle.dumps(payload))})


@file("a pickle behind a good one")
def _(path: Path, payload: Payload) -> bytes:
    return pickle.dumps({"a": 1}) + pickle.dumps(payload)


@file("an array of objects")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"a": np.array([payload], dtype=object)})


@file("an array of objects in NumPy's format")
def _(path: Path, payload: Payload) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@file("a whole module")
def _(path: Path, payload: Payload) -> bytes:
    return saved(torch.nn.Linear(2, 2))


@file("a function of torch that opens files")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"a": Call(torch.load, str(path.with_name("other.pth")))})


@file("a tar archive")
def _(path: Path, payload: Payload) -> bytes:
    buffer, content = io.BytesIO(), pickle.dumps(payload)
    with tarfile.open(fileobj=buffer, mode="w") as target:
        for name in ("storages", "tensors", "pickle", "../../escaped"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@file("a compressed archive that grows a thousandfold")
def _(path: Path, payload: Payload) -> bytes:
    entries = {"a/data.pkl": b"\x80\x02" + b"N0" * (64 << 20), "a/version": b"3\n"}
    return archive(entries, zipfile.ZIP_DEFLATED)


@file("an archive with paths that climb")
def _(path: Path, payload: Payload) -> bytes:
    content = pickle.dumps(payload)
    return archive({"../../escaped/data.pkl": content, "a/version": b"3\n", "a/data.pkl": content})


@file("a pickle that claims 2^60 bytes")
def _(path: Path, payload: Payload) -> bytes:
    return b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."


@file("a pickle 100,000 lists deep")
def _(path: Path, payload: Payload) -> bytes:
    return b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


def shared_lists() -> Any:
    """15 lists, of 50 times the one below each."""
    tree: Any = [1]
    for _ in range(15):
        tree = [tree] * 50
    return tree


@file("lists that share what they hold")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"emb.weight": shared_lists()})


@file("a dict that holds itself")
def _(path: Path, payload: Payload) -> bytes:
    content: dict[str, Any] = {"emb.weight": torch.zeros(2)}
    content["model"] = content
    return saved(content)


@file("a name of pairs of pairs")
def _(path: Path, payload: Payload) -> bytes:
    pairs = b"".join(b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    return archive({"a/data.pkl": b"\x80\x02})q\x00" + pairs + b"K\x01s.", "a/version": b"3\n"})


@file("truncated")
def _(path: Path, payload: Payload) -> bytes:
    return saved({"emb.weight": torch.zeros(64, 64)})[:-200]


@file("empty")
def _(path: Path, payload: Payload) -> bytes:
    return b""


@file("a picture")
def _(path: Path, payload: Payload) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


@file("a pipe that never ends")
def _(path: Path, payload: Payload) -> None:
    os.mkfifo(path)


@file("a link to itself")
def _(path: Path, payload: Payload) -> None:
    path.symlink_to(path)


def checkpoint(path: Path, content: Any) -> None:
    """As a run's own: with a manifest that is right."""
    path.write_bytes(saved(content))
    write_manifest(path)


def described(**model: Any) -> dict[str, Any]:
    known = {"name": "rwkv4", "size": "x", "target": "models.rwkv4.RWKV4", "config": {}}
    return {
        "state_dict": {"model.emb.weight": torch.zeros(4, 4)},
        "crossover": {"identity": {"model": {**known, **model}}},
    }


@file("a checkpoint with code and a sound manifest", "step-00000001.ckpt")
def _(path: Path, payload: Payload) -> None:
    checkpoint(path, {**described(), "callbacks": payload})


@file("a checkpoint that names os.system as its model", "step-00000001.ckpt")
def _(path: Path, payload: Payload) -> None:
    checkpoint(path, described(target="os.system", config={"command": payload.command}))


@file("a checkpoint that names what our modules import", "step-00000001.ckpt")
def _(path: Path, payload: Payload) -> None:
    checkpoint(path, described(target="models.meta.json.loads"))


@file("a checkpoint of a billion layers", "step-00000001.ckpt")
def _(path: Path, payload: Payload) -> None:
    sizes = {"vocab_size": 4, "n_layer": 10**9, "n_embd": 4}
    checkpoint(path, described(config=sizes))


@file("a checkpoint whose manifest is 100,000 lists deep", "step-00000001.ckpt")
def _(path: Path, payload: Payload) -> None:
    checkpoint(path, described())
    path.with_suffix(".json").write_text("[" * 100_000)


@file("safetensors: a header of 2^62 bytes", "a.safetensors")
def _(path: Path, payload: Payload) -> bytes:
    return safetensors({}, length=1 << 62)


@file("safetensors: a tensor beyond the file", "a.safetensors")
def _(path: Path, payload: Payload) -> bytes:
    entry = {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 1 << 22]}
    return safetensors({"emb.weight": entry}, bytes(64))


@file("safetensors: two tensors in one place", "a.safetensors")
def _(path: Path, payload: Payload) -> bytes:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return safetensors({"a": entry, "b": entry}, bytes(16))


@file("safetensors: shapes that overflow", "a.safetensors")
def _(path: Path, payload: Payload) -> bytes:
    entry = {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]}
    return safetensors({"a": entry}, bytes(16))


@file("safetensors: a header 100,000 lists deep", "a.safetensors")
def _(path: Path, payload: Payload) -> bytes:
    return safetensors(b'{"a":' + b"[" * 100_000)


@file("safetensors: metadata that names os.system", "a.safetensors")
def _(path: Path, payload: Payload) -> None:
    model = {"name": "a", "size": "x", "target": "os.system", "config": {"a": payload.command}}
    text = json.dumps({"model": model, "unused": []})
    save_file({"a": torch.zeros(2)}, path, {"crossover": text})


@file("safetensors: metadata 100,000 lists deep", "a.safetensors")
def _(path: Path, payload: Payload) -> None:
    save_file({"a": torch.zeros(2)}, path, {"crossover": "[" * 100_000})
