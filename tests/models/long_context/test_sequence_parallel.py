"""A sequence split over processes equals the whole one, forward and backward."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from models.contract import named_tensors
from models.layers.trunk import Trunk
from models.long_context import sequence_parallel as sequence_parallel_module
from models.long_context.sequence_parallel import Split, sequence_parallel, spanned_objective
from models.ops.attention import attend, first_position
from models.ops.elementwise import shifted
from models.ops.intercept import intercept, mixer
from models.ops.short_convolution import preceding, running_sum
from models.ops.wkv import wkv4, wkv5, wkv6, wkv7
from tests.models.long_context import span_ranks
from tests.models.long_context.span_ranks import gradients, launch, whole_batch
from tests.registered_models import shaken, some_tokens


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def assert_gradients(found: dict[str, torch.Tensor], model: Any) -> None:
    expected = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative(found[name], gradient) <= 1e-5, name


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return launch(span_ranks.everything, 2, tmp_path_factory.mktemp("pair"))


def test_every_model_can_be_split_in_two(pair: list[dict[str, Any]]) -> None:
    assert_spans([rank["spans"] for rank in pair])


@pytest.mark.slow
def test_every_model_can_be_split_in_three(tmp_path: Path) -> None:
    assert_spans(launch(span_ranks.spans_of_every_model, 3, tmp_path))


def assert_spans(ranks: list[dict[str, Any]]) -> None:
    for name in ranks[0]:
        model = shaken(name)
        tokens, targets = whole_batch()
        with torch.no_grad():
            logits, _ = model(tokens)
        together = torch.cat([rank[name]["logits"] for rank in ranks], dim=1)
        assert relative(together, logits) <= 1e-5, name
        objective, loss, _ = model.objective(tokens, targets, l2wrap=1e-2)
        objective.backward()
        for rank in ranks:
            torch.testing.assert_close(rank[name]["loss"], loss, rtol=1e-5, atol=0)
            assert_gradients(rank[name]["gradients"], model)


def test_split_sequences_go_on_from_a_state_and_in_segments(pair: list[dict[str, Any]]) -> None:
    ranks = [rank["continued"] for rank in pair]
    for name in ranks[0]:
        model = shaken(name)
        tokens, targets = whole_batch()
        with torch.no_grad():
            logits, state = model(tokens, model.init_state(2))
        parts = [rank[name]["logits"][half] for half in (0, 1) for rank in ranks]
        assert relative(torch.cat(parts, dim=1), logits) <= 1e-5, name
        model.objective(tokens, targets)[0].backward()
        for rank in ranks:
            assert_gradients(rank[name]["gradients"], model)
            after = dict(named_tensors(rank[name]["state"]))
            for place, leaf in named_tensors(state):
                torch.testing.assert_close(after[place], leaf, rtol=1e-4, atol=1e-5)


def test_segments_work_under_data_parallelism(pair: list[dict[str, Any]]) -> None:
    """Every parameter's hook must see its whole gradient, once."""
    model = shaken("rwkv7")
    model.objective(*whole_batch())[0].backward()
    for rank in pair:
        assert_gradients(rank["parallel"], model)


def test_what_cannot_be_split_is_refused(pair: list[dict[str, Any]]) -> None:
    for messages in (rank["refused"] for rank in pair):
        assert "59 tokens cannot be shared by 2 ranks equally" in messages[0]
        assert "cannot keep a cache of a split sequence" in messages[1]
        assert "documents cannot be packed into a split sequence" in messages[2]
        assert "the LSTM cannot be read in spans of a sequence" in messages[3]
    with pytest.raises(UserError, match="no process group; start with torchrun"):
        sequence_parallel().__enter__()
    with pytest.raises(UserError, match="use it inside sequence_parallel"):
        spanned_objective(shaken("rwkv4"), some_tokens(1, 4), some_tokens(1, 4))


def test_an_operator_that_nobody_can_summarise_is_refused() -> None:
    @mixer
    def scan(*_: Any) -> Any:
        raise AssertionError("it must not run")

    handler = partial(sequence_parallel_module.spread, Split(None, 0, 2))
    with intercept(handler), pytest.raises(UserError, match="is summarised for the operator scan"):
        scan()


def test_every_rule_is_of_an_interceptable_function() -> None:
    functions = [
        Trunk.hidden, first_position, shifted, preceding, running_sum, attend,
        wkv4, wkv5, wkv6, wkv7,
    ]  # fmt: skip
    assert all(hasattr(function, "__wrapped__") for function in functions)
    assert {function.__name__ for function in functions} == {*sequence_parallel_module._RULES}
