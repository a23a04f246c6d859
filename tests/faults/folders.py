"""Folders of weights that are malicious or foreign: Hugging Face directories and run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.faults.weights import MAKERS, Payload, saved

LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 16,
}


def folder(name: str) -> Callable[[Callable[[Path, Payload], None]], Any]:
    """Register a function that fills a Hugging Face directory."""

    def add(function: Callable[[Path, Payload], None]) -> Any:
        def maker(parent: Path, payload: Payload) -> Path:
            path = parent / "hf"
            path.mkdir()
            (path / "config.json").write_text(json.dumps(LLAMA))
            function(path, payload)
            return path

        MAKERS[f"Hugging Face: {name}"] = maker
        return function

    return add


def sharded(path: Path, shard: str) -> None:
    index = {"weight_map": {"model.embed_tokens.weight": shard}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def outside(path: Path) -> Path:
    """A sound file that is not in the folder."""
    target = path.parent / "outside.safetensors"
    save_file({"model.embed_tokens.weight": torch.zeros(16, 8)}, target)
    return target


@folder("a shard named ../../etc/passwd")
def _(path: Path, payload: Payload) -> None:
    sharded(path, "../../../../../../etc/passwd")


@folder("a shard with an absolute path")
def _(path: Path, payload: Payload) -> None:
    sharded(path, str(outside(path).resolve()))


@folder("a shard that is a link out of the folder")
def _(path: Path, payload: Payload) -> None:
    (path / "one.safetensors").symlink_to(outside(path))
    sharded(path, "one.safetensors")


@folder("weights that are a link out of the folder")
def _(path: Path, payload: Payload) -> None:
    (path / "model.safetensors").symlink_to(outside(path))


@folder("a configuration that is a link out of the folder")
def _(path: Path, payload: Payload) -> None:
    target = path.parent / "elsewhere.json"
    (path / "config.json").rename(target)
    (path / "config.json").symlink_to(target)


@folder("code in pytorch_model.bin")
def _(path: Path, payload: Payload) -> None:
    (path / "pytorch_model.bin").write_bytes(saved({"model.embed_tokens.weight": payload}))


@folder("auto_map and a module of its own")
def _(path: Path, payload: Payload) -> None:
    (path / "modeling.py").write_text(f"import os\nos.system({payload.command!r})\n")
    content = {**LLAMA, "model_type": "mine", "auto_map": {"AutoModel": "modeling.Model"}}
    (path / "config.json").write_text(json.dumps(content))


@folder("a configuration 100,000 lists deep")
def _(path: Path, payload: Payload) -> None:
    (path / "config.json").write_text("[" * 100_000)


@folder("a billion layers")
def _(path: Path, payload: Payload) -> None:
    (path / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 10**9}))
    save_file({"model.embed_tokens.weight": torch.zeros(16, 8)}, path / "model.safetensors")


@folder("options of the wrong kind")
def _(path: Path, payload: Payload) -> None:
    (path / "config.json").write_text(json.dumps({**LLAMA, "rope_scaling": ["os.system"]}))


@folder("an index that is no index")
def _(path: Path, payload: Payload) -> None:
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": ["b"], "c": 3}}')
