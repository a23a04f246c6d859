"""Files are read as tensors: nothing in one is ever executed."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from core.errors import UserError
from core.files import write_manifest
from models.formats.tensor_files import read_safetensors, write_safetensors

COMMAND = "touch executed"


class Trap:
    """Unpickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


TRAPS = {
    "os.system": lambda: Trap(os.system, COMMAND),
    "eval": lambda: Trap(builtins.eval, "__import__('os').system('touch executed')"),
    "exec": lambda: Trap(builtins.exec, "open('executed', 'w').close()"),
    "subprocess": lambda: Trap(subprocess.check_output, ["touch", "executed"]),
    "nested": lambda: {"emb.weight": torch.zeros(3), "x": [{"y": (Trap(os.system, COMMAND),)}]},
    "in a key": lambda: {Trap(os.system, COMMAND): torch.zeros(3)},
}
WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "zip": torch.save,
    "older": lambda x, path: torch.save(x, path, _use_new_zipfile_serialization=False),
    "plain pickle": lambda x, path: path.write_bytes(pickle.dumps(x)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("trap", TRAPS)
def test_code_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, writer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(
        '{"model_type": "rwkv", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1}'
    )
    for name in ("a.pth", "a.bin", "a.ckpt", "hf/pytorch_model.bin"):
        WRITERS[writer](TRAPS[trap](), tmp_path / name)
        write_manifest(tmp_path / name)
    for path in ("a.pth", "a.bin", "a.ckpt", "hf"):
        message = r"contains code \(\w+\.\w+\) .*refused, nothing was executed"
        with pytest.raises(UserError, match=message) as refused:
            models.load(tmp_path / path)
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "executed").exists()
    if writer == "plain pickle":
        pickle.loads((tmp_path / "a.pth").read_bytes())
    else:
        torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "executed").exists(), "the trap must work when it is sprung"


def test_safetensors_keep_views_and_metadata(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    write_safetensors(tmp_path / "a.safetensors", {"t": whole.T, "row": whole[1]}, {"k": "v"})
    tensors, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["t"], whole.T) and torch.equal(tensors["row"], whole[1])
    assert metadata == {"k": "v"}
    assert (tmp_path / "a.safetensors").stat().st_size < 300


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\xff" * 4000, b"\x08" + b"\0" * 7 + b"{}{}{}{}"]
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors is damaged"):
        models.load(tmp_path / "a.safetensors")
