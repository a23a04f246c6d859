"""Decoding beside the official package: what stands in a row."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import decode
from models.decoding.int8 import Int8Linear


def test_rates_and_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens in half a second against one second: 4 and 2 tokens per second."""
    monkeypatch.setattr(decode, "LAYERS", 1)
    monkeypatch.setattr(decode, "WIDTH", 64)
    monkeypatch.setattr(decode, "VOCAB", {"rwkv4": 128})
    monkeypatch.setattr(decode, "decode", lambda model, tokens: 0.5)
    answers = (
        'import sys\nprint("ready", flush=True)\nfor line in sys.stdin: print(1.0, flush=True)'
    )
    monkeypatch.setattr(decode, "CHILD", answers)
    row = decode.row("rwkv4", 2, 3)
    assert row.what == "rwkv4, 1 x 64, V=128"
    ours, bandwidth, theirs, ratio = row.figures
    assert (ours, theirs, ratio) == ("4.0", "2.0", "2.00 (2.00 to 2.00)")
    assert bandwidth == "0.0"


def test_precisions_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a batch takes as long as one of a sequence, and one in int8 half as long."""
    monkeypatch.setattr(decode, "LAYERS", 1)
    monkeypatch.setattr(decode, "WIDTH", 64)
    monkeypatch.setattr(decode, "VOCAB", {"rwkv7": 128})

    def seconds(model: Any, tokens: int, batch: int) -> float:
        rounded = isinstance(model.head, Int8Linear)
        return tokens * (0.5 if rounded else 1.0)

    monkeypatch.setattr(decode, "decode", seconds)
    rows = {row.what: row.figures for row in decode.together(4, 2)}
    assert rows["fp32"] == ("1.0", "8.0", "32.0", "32.00 (32.00 to 32.00)", "1.00 (1.00 to 1.00)")
    assert rows["int8"] == ("2.0", "16.0", "64.0", "32.00 (32.00 to 32.00)", "2.00 (2.00 to 2.00)")


def test_a_model_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LAYERS", 2)
    monkeypatch.setattr(decode, "WIDTH", 64)
    monkeypatch.setattr(decode, "VOCAB", {"rwkv7": 64})
    assert decode.decode(decode.random_model("rwkv7"), 3) > 0
