"""Trainings that begin with others' files: their own runtimes' logits, and exact sums after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from core.files import sha256
from models.formats.load import read as read_weights
from models.meta import build_meta
from models.registry import ModelSpec
from tests import official_weights
from tests.oracle import Question, ask
from tests.training.runs import run_conf
from training.loop.module import LanguageModel
from training.run import train
from training.run_folder.folder import RunFolder
from training.run_folder.lineage import ancestors, read_runs

VOCABULARY = 257  # of the tokenizer of bytes
TOKENS = torch.randint(0, VOCABULARY, (1, 19), generator=torch.Generator().manual_seed(3))


def official(folder: Path) -> tuple[Path, Tensor]:
    """An RWKV-7 file, and what the package `rwkv` makes of it."""
    path = folder / "official.pth"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(official_weights, "VOCAB", VOCABULARY)
        torch.save(official_weights.official_weights("rwkv7", layers=2), path)
    (answer,) = ask([Question(str(path), "rwkv7", TOKENS[0].tolist(), [[TOKENS.shape[1]]])])
    return path, answer.logits[0]


def llama(folder: Path) -> tuple[Path, Tensor]:
    """A directory that `transformers` has written, and what its model answers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, intermediate_size=80,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.add_(torch.randn_like(parameter) * scale)
        logits = model(TOKENS).logits[0]
    model.save_pretrained(folder / "llama")
    return folder / "llama", logits


def first_logits(monkeypatch: pytest.MonkeyPatch, begin: Any) -> tuple[Tensor, Any]:
    """Logits of `TOKENS` before the first step of a training, and its summary."""
    seen: list[Tensor] = []
    inner = LanguageModel.training_step

    def training_step(module: LanguageModel, *args: Any) -> Tensor:
        if not seen:
            with torch.no_grad():
                model: Any = module.model
                seen.append(model(TOKENS)[0][0])
        return inner(module, *args)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "training_step", training_step)
        summary = begin()
    return seen[0], summary


@pytest.mark.parametrize("made_by", [official, llama])
def test_it_begins_with_the_logits_of_the_foreign_runtime_and_counts_exactly(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, made_by: Any
) -> None:
    source, theirs = made_by(tmp_path)
    spec: ModelSpec = read_weights(source).spec
    spec = replace(spec, config={**vars(build_meta(spec).config)})

    def begin(name: str, source: Path, **changes: Any) -> dict[str, Any]:
        conf = run_conf(tmp_path / "runs", corpus, init_from=str(source), **changes)
        conf.name = name
        summary = train(conf, spec, RunFolder(tmp_path / "runs" / name))
        assert summary is not None
        return summary

    logits, first = first_logits(monkeypatch, lambda: begin("first", source, trainer__max_steps=2))
    assert (logits - theirs).abs().max() < 5e-5
    second = begin("second", tmp_path / "runs/first", trainer__max_steps=3, data__batch_size=2)
    third = begin(
        "third", tmp_path / "runs/second", take="weights", trainer__max_steps=1, data__length=16
    )
    of_step = [(4, 32), (4, 32), (2, 32), (4, 16)]  # sequences and their length
    model = build_meta(spec)
    for summary, steps in ((first, 2), (second, 3), (third, 4)):
        assert summary["tokens"] == sum(batch * length for batch, length in of_step[:steps])
        assert summary["forward_flops"] == sum(model.flops(*shape) for shape in of_step[:steps])
    assert first["parent"].items() >= {"path": str(source), "step": 0, "take": "weights"}.items()
    if source.is_file():
        assert first["parent"]["sha256"] == sha256(source)
    assert [summary["parent"]["step"] for summary in (second, third)] == [2, 3]
    (last,) = [run for run in read_runs(tmp_path / "runs") if run.name == "third"]
    assert [run.name for run in ancestors(last)] == ["third", "second", "first"]
