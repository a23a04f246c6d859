"""Decoding and generating: what a repeat is, and where it starts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from core import energy
from models.registry import ModelSpec
from probes.measure.tasks import decode
from tests.probes.measure.child_tasks import TASK, built, run
from tests.probes.specs import rwkv4, transformer


def test_decode_keeps_the_time_of_every_token() -> None:
    facts = run(probe="decode").facts
    each, means = facts["token_seconds"], facts["seconds"]
    assert len(each) == 3 * 8 and len(means) == 3
    around = []  # of the mean, by the loop around the tokens; in one of three, if not by another
    for place, mean in enumerate(means):
        own = each[8 * place : 8 * place + 8]
        assert min(own) > 0 and sum(own) / 8 <= mean
        around.append(1 - sum(own) / 8 / mean)
    assert min(around) < 0.2


def test_generate_is_the_whole_text_and_stops_repeating() -> None:
    many = run(probe="generate", spec=rwkv4(), length=32).facts
    assert len(many["seconds"]) == 3
    once = run(probe="generate", spec=rwkv4(), length=32, repeat_seconds=0.0).facts
    assert len(once["seconds"]) == 1
    assert many["flops"] == built(rwkv4()).flops(2, 32)


@pytest.mark.parametrize("spec", [rwkv4(), transformer()], ids=["rwkv4", "transformer"])
def test_generate_feeds_every_token_back_and_starts_empty(spec: ModelSpec) -> None:
    model, seen = built(spec), []

    def record(
        _module: torch.nn.Module, arguments: tuple[Any, ...], output: tuple[Tensor, Any]
    ) -> None:
        seen.append((arguments[0].clone(), output[0][:, -1:].argmax(-1)))

    model.register_forward_hook(record)
    task = replace(TASK, probe="generate", spec=spec, length=20, repeats=2)
    decode.generate(model, task, energy.find("cpu"))
    warm, first, second = seen[:16], seen[16:36], seen[36:]
    assert len(second) == 20
    for text in (warm, first, second):
        for (_, likeliest), (token, _) in pairwise(text):
            assert torch.equal(token, likeliest)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    whole, _ = built(spec)(torch.cat([token for token, _ in first], dim=1))
    assert whole.shape[1] == 20


def test_decode_peak_leaves_the_prefill_out(baseline: int) -> None:
    """The logits of a long prefill are far larger than everything decoding holds."""
    changes: dict[str, Any] = {
        "batch": 1,
        "length": 4096,
        "baseline_bytes": baseline,
        "vocab_size": 4096,
    }
    changes["spec"] = transformer(vocab_size=4096, n_layer=1)
    logits = 4096 * 4096 * 4
    assert run(probe="prefill", **changes).facts["peak_bytes"] > logits
    assert run(probe="decode", **changes).facts["peak_bytes"] < logits / 2


def test_decode_starts_every_repeat_at_the_same_position() -> None:
    model = built(TASK.spec)
    calls = []

    def record(_module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        decode, state = arguments
        calls.append((int(state["length"]), decode.shape[1]))

    model.register_forward_pre_hook(record)
    decode.decode(model, TASK, energy.find("cpu"))
    steps = [(48 + step, 1) for step in range(8)]
    assert calls == steps * (1 + TASK.warmup + TASK.repeats)
