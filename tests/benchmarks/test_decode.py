"""Decoding beside the official package: what stands in a row."""

from __future__ import annotations

import pytest

from benchmarks import decode


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


def test_a_model_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LAYERS", 2)
    monkeypatch.setattr(decode, "WIDTH", 64)
    monkeypatch.setattr(decode, "VOCAB", {"rwkv7": 64})
    assert decode.decode(decode.random_model("rwkv7"), 3) > 0
