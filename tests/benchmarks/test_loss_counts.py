"""What the loss costs on a GPU, by count."""

from __future__ import annotations

import pytest
import torch

from benchmarks.loss_counts import CASES, count, main

BEFORE_LAUNCHES, BEFORE_BYTES = 1038, 139.2e9
"""Of the first case with chunks of 512 tokens that were divided before the products."""


def test_launches_and_traffic_are_a_quarter_of_what_they_were() -> None:
    tokens, channels, vocab = CASES[0]
    found = count(tokens, channels, vocab, "cuda", torch.bfloat16)
    assert found.launches <= 210 < BEFORE_LAUNCHES / 4
    logits = tokens * vocab
    # log softmax in fp32, its exponential in half precision; a little for what is not [n, V]
    assert found.traffic == pytest.approx((8 + 6) * logits, rel=0.1)
    assert found.traffic < BEFORE_BYTES / 4
    assert found.products == pytest.approx(3 * 2 * logits * channels)


def test_the_table_has_a_row_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(CASES) and "32,768, 1,024, 65,536 | 206 | 31.8" in rows[2]
