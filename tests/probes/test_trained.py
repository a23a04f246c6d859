"""Weights from files in probes: which are measured, and what rows say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.files import sha256
from models.formats.save import save
from models.formats.weights import Weights
from models.registry import build
from probes.rows import Row, label_of
from probes.trained import fill, trained
from tests.probes.synthetic import make_row
from tests.registered_models import shaken, spec_of


def written(name: str, path: Path) -> Weights:
    weights = Weights(spec_of(name), shaken(name).state_dict())
    save(weights, path, "hf" if not path.suffix else path.suffix[1:])
    return weights


@pytest.mark.parametrize("place", ["a", "a.safetensors"])
def test_a_model_is_filled_with_the_weights_of_a_file(tmp_path: Path, place: str) -> None:
    weights = written("transformer", tmp_path / place)
    spec = trained(tmp_path / place, "mine")
    assert spec.target == weights.spec.target and label_of(spec) == "transformer mine"
    model = build(spec)
    fill(model, spec)
    state = model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.tensors.items())
    if place == "a.safetensors":
        assert spec.weights["sha256"] == sha256(tmp_path / place)
    digest = spec.weights["sha256"]
    changed = Weights(weights.spec, {n: t + 1 for n, t in weights.tensors.items()})
    save(changed, tmp_path / place, "hf" if place == "a" else "safetensors", overwrite=True)
    with pytest.raises(UserError, match="has changed since the sweep began"):
        fill(model, spec)
    assert trained(tmp_path / place, "mine").weights["sha256"] != digest


def test_rows_of_other_weights_are_other_rows() -> None:
    fresh = make_row("rwkv4", "decode", 64)
    assert json.loads(fresh.key) == json.loads(Row.from_json(fresh.to_json()).key)
    rows = [
        Row.of({**json.loads(fresh.to_json()), "weights": {"source": "first@3", "sha256": digest}})
        for digest in ("a", "b")
    ]
    assert len({fresh.key, *(row.key for row in rows)}) == 3
    assert rows[0].label == f"{fresh.label} first@3"
    older = json.loads(fresh.to_json())
    del older["weights"]
    assert Row.of(older).key == fresh.key
