"""The mass of an alignment: which words belong together, and known weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.alignment_mass import MOST, measure, parts
from data.tasks.translations import NumberWords, words
from data.tokenizers import char_tokenizer


def test_both_languages_have_the_same_number_words() -> None:
    for number in (*range(130), *range(130, MOST + 1, 397), MOST):
        german, english = (parts(words(number, one), one) for one in ("de", "en"))
        assert german.keys() == english.keys(), number
    source, target = words(21_345, "de"), words(21_345, "en")
    german, english = parts(source, "de"), parts(target, "en")
    pairs = [
        (source[a.start : a.stop], target[b.start : b.stop])
        for a, b in ((german[name], english[name]) for name in english)
    ]
    assert pairs == [
        ("zwanzig", "twenty"), ("ein", "one"), ("tausend", "thousand"), ("drei", "three"),
        ("hundert", "hundred"), ("vierzig", "forty"), ("fünf", "five"),
    ]  # fmt: skip


class Fixed:
    """Weights that are equal, or all on one letter."""

    def __init__(self, place: int | None) -> None:
        self.place = place

    def aligned(self, tokens: Tensor) -> Tensor:
        weights = torch.full((1, 11, 13), 1 / 13)
        if self.place is not None:
            weights = torch.zeros_like(weights)
            weights[..., self.place] = 1
        return weights


def test_known_weights() -> None:
    tokenizer = char_tokenizer(NumberWords().symbols)
    assert (words(21, "de"), words(21, "en")) == ("einundzwanzig", "twenty-one")
    equal = measure(Fixed(None), tokenizer, [21])
    assert equal.letters == 9
    assert equal.inside == pytest.approx((6 * 7 + 3 * 3) / 9 / 13) == equal.chance
    assert equal.near == pytest.approx((6 * 8 + 3 * 4) / 9 / 13)
    tens = measure(Fixed(6), tokenizer, [21])
    assert (tens.inside, tens.best) == (pytest.approx(6 / 9), pytest.approx(6 / 9))
    assert measure(Fixed(5), tokenizer, [21]).near == pytest.approx(6 / 9)
    assert measure(Fixed(5), tokenizer, [21]).inside == 0
