"""RWKV-5 and 6 in folders with the names that the RWKV organisation gave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.formats.load import read
from models.formats.official import from_tensors
from models.formats.save import save
from tests.official_weights import LAYERS, VOCAB, WIDTH, official_weights

LONG = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}


def folder_of(version: str, folder: Path) -> dict[str, Tensor]:
    """Write the folder as the scripts that made the released ones did, from an official file."""
    tensors = {}
    for name, tensor in official_weights(version).items():
        name = name.replace("emb.", "embeddings.").replace(".ln0.", ".pre_ln.")
        name = name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
        stem, _, letter = name.rpartition("_")
        if stem.endswith("time_mix"):
            name = f"{stem}_{LONG[letter]}"
        tensors[name if name.startswith("head") else f"rwkv.{name}"] = tensor.contiguous()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": version, "hidden_size": WIDTH, "attention_hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": 64, "head_size": 64,
        "vocab_size": VOCAB, "intermediate_size": None, "layer_norm_epsilon": 1e-5,
        "rescale_every": 6, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


@pytest.mark.parametrize("version", ["rwkv5", "rwkv6"])
def test_a_folder_is_the_official_model(tmp_path: Path, version: str) -> None:
    theirs = folder_of(version, tmp_path / "a")
    after, before = read(tmp_path / "a"), from_tensors(Path("a"), official_weights(version))
    assert after.spec == before.spec
    assert all(torch.equal(after.tensors[name], one) for name, one in before.tensors.items())
    if version == "rwkv5":  # RWKV-6 is written as fla's
        save(after, tmp_path / "b", "hf")
        again = load_file(tmp_path / "b/model.safetensors")
        assert again.keys() == theirs.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in theirs.items())
        config = json.loads((tmp_path / "b/config.json").read_text())
        assert (config["model_type"], config["head_size"], config["rescale_every"]) == (
            "rwkv5", 64, 0,
        )  # fmt: skip
