"""Two real models, as small as they come, and of one size; a measurement of one."""

from __future__ import annotations

from pathlib import Path

import yaml

from models.registry import ModelSpec
from probes.rows import Row
from scripts.cli.model_spec import model_spec

VOCAB = 256
FOLDER = Path(__file__).resolve().parents[2] / "conf" / "model"


def rwkv4(**config: object) -> ModelSpec:
    fields = {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 64, "n_ffn": 348} | config
    return ModelSpec("rwkv4", "tiny", "models.rwkv4.RWKV4", fields)


def transformer(**config: object) -> ModelSpec:
    fields = {"vocab_size": VOCAB, "n_layer": 2, "n_embd": 64, "n_head": 2, "n_ffn": 256} | config
    return ModelSpec("transformer", "tiny", "models.transformer.Transformer", fields)


def training_row(length: int, vocab: int) -> Row:
    """A training of rwkv4 tiny on a GPU, as a sweep writes it."""
    values = yaml.safe_load((FOLDER / "rwkv4.yaml").read_text())
    spec = model_spec({**values, "size": "tiny"}, vocab)
    return Row(
        probe="train", sweep="batch_1", model=spec.name, size=spec.size, target=spec.target,
        config=spec.config, parameters=1, context_length=length, batch=1, status="ok", error=None,
        seconds=[0.01 * length], peak_bytes=1000 * length, peak_method="", state_bytes=None,
        flops=1, flops_dense=1, backends={}, precision="bfloat16", seed=0,
        device={"kind": "cuda", "name": "a GPU", "threads": 1, "memory_bytes": 1}, versions={},
        commit="", load_before=0.0, started="2026-11-21T00:00:00+00:00", command="",
    )  # fmt: skip
