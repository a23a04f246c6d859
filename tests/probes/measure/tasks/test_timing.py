"""The bytes of a state, and the tokens of a measurement."""

from __future__ import annotations

from dataclasses import replace

import torch

from probes.measure.tasks import timing
from tests.probes.measure.child_tasks import TASK
from tests.probes.specs import VOCAB
from tests.registered_models import spec_of


def test_state_bytes_counts_what_is_kept_alive() -> None:
    whole = torch.zeros(10, 4)
    state = {"a": {"b": whole[-1]}, "c": whole[0], "d": torch.zeros(3, dtype=torch.float16)}
    assert timing.state_bytes(state) == 10 * 4 * 4 + 3 * 2


def test_a_model_that_needs_a_separator_finds_one_in_each_row() -> None:
    plain = timing.tokens(TASK, 300, batch=3)
    task = replace(TASK, spec=spec_of("encdec", vocab=VOCAB, separator=5))
    for place, expected in ((None, 150), (299, 299), (0, 0)):
        made = timing.tokens(task, 300, batch=3, place=place)
        assert (made == 5).nonzero().tolist() == [[row, expected] for row in range(3)]
        assert (made != plain).sum() <= 3 + (plain == 5).sum()
