"""Numbers as people read them."""

from __future__ import annotations

from probes.analysis.dataset import Series
from probes.analysis.shape_fit import LINEAR, LOGLINEAR, QUADRATIC, Growth
from probes.report import phrases


def test_shapes() -> None:
    weights = {LINEAR: 0.013, LOGLINEAR: 0.002, QUADRATIC: 0.985}
    assert phrases.shape(Growth(weights)) == "a + bT + cT² (98 %)"
    assert phrases.shape(Growth({LINEAR: 0.44, LOGLINEAR: 0.44, QUADRATIC: 0.12})) == "undecided"
    assert phrases.shape(None) == "too few points to tell"


def test_names_and_lists() -> None:
    assert phrases.name(Series("rwkv7 small", "rwkv7", (), True, "RWKV-7")) == "RWKV-7 small"
    assert phrases.name(Series("gpt", "gpt", (), False, "GPT")) == "GPT"
    transformer = Series("transformer window 64", "transformer", (), False, "the Transformer")
    assert phrases.spoken(transformer) == "the Transformer window 64"
    assert phrases.name(transformer) == "Transformer window 64"
