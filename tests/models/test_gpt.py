"""The GPT beyond the contract: its learned positions end."""

from __future__ import annotations

import pytest

from core.errors import UserError
from tests.registered_models import shaken, some_tokens


def test_gpt_names_its_limit() -> None:
    model = shaken("gpt", n_positions=16)
    with pytest.raises(UserError, match="16 learned positions, too few for 17 tokens"):
        model(some_tokens(1, 17))
    _, state = model(some_tokens(1, 16), model.init_state(1))
    with pytest.raises(UserError, match="too few for 17"):
        model(some_tokens(1, 1), state)
