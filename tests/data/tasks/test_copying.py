"""The copying task: letters, a mark, and the letters again."""

from __future__ import annotations

import numpy as np
import pytest

from data.tasks.copying import LETTERS, Copying
from data.tokenizers import char_tokenizer


@pytest.mark.parametrize("length", [2, 3, 9, 64])
def test_what_is_learned_is_what_came_before(length: int) -> None:
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 2**64, (50, length + 1), dtype=np.uint64)
    tokens, learned = Copying().sequences(numbers)
    tokenizer = char_tokenizer(Copying.symbols)
    for row, mask in zip(tokens, learned, strict=True):
        first, second, *_ = tokenizer.decode(row.tolist()).split("|")
        assert first == second and len(first) == length // 2
        assert "".join(tokenizer.decode([i]) for i in row[mask]) == second
    assert set(np.unique(tokens)) <= set(range(len(LETTERS) + 1))
