"""One layer and one operator, with what they see inside the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from models.ops import intercept
from probes.measure.tasks import layer, timing
from probes.rows import ERROR, OK
from tests.probes.measure.child_tasks import TASK, built, run
from tests.probes.specs import VOCAB
from tests.registered_models import NAMES, separated, spec_of


def has_operator(name: str) -> bool:
    calls = []

    def record(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        calls.append(function)
        return function(*arguments)

    with intercept.intercept(record):
        model = built(spec_of(name))
        model.hidden(separated(model, torch.zeros(1, 4, dtype=torch.long)))
    return any(function in intercept.MIXERS for function in calls)


@pytest.mark.parametrize("name", [name for name in NAMES if not has_operator(name)])
def test_a_model_without_an_operator_is_measured_by_layers_only(name: str) -> None:
    """Its tokens are mixed by a matrix with parameters, as the LSTM's are: nothing to cut out."""
    spec = spec_of(name, vocab_size=VOCAB)
    assert run(probe="layer", spec=spec).status == OK
    outcome = run(probe="operator", spec=spec)
    assert outcome.status == ERROR and f"{name} has no operator to measure" in outcome.error


@pytest.mark.parametrize(
    "variant", [*(name for name in NAMES if has_operator(name)), "transformer window"]
)
def test_layer_and_operator_are_those_of_the_model(variant: str) -> None:
    """What the parts are given is what they see inside a training step of the whole model."""
    name = variant.split()[0]
    extra = {"window": 16} if "window" in variant else {}
    spec = spec_of(name, n_layer=3, **extra)
    model = built(spec)
    changes = {"vocab_size": spec.config["vocab_size"], "spec": spec}
    task = replace(TASK, probe="operator", **changes)
    block, stream = layer.middle(model, task)
    assert block is model.layers[1]
    mixer, operands = layer.mixing(model, task)
    seen: dict[str, Any] = {}
    block.register_forward_pre_hook(lambda _, inputs: seen.update(stream=inputs[0]))

    def record(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if function is mixer and "stream" in seen and "operands" not in seen:
            seen["operands"] = arguments
        return function(*arguments)

    with intercept.intercept(record):
        model.hidden(timing.tokens(task, task.length))
    inside = seen["stream"] if isinstance(seen["stream"], tuple) else (seen["stream"],)
    outside = stream if isinstance(stream, tuple) else (stream,)
    for mine, real in zip([*outside, *operands], [*inside, *seen["operands"]], strict=True):
        if isinstance(real, torch.Tensor) and model.chooses:  # below, without gradients, by argmax
            assert mine.shape == real.shape
        elif isinstance(real, torch.Tensor):
            torch.testing.assert_close(mine, real)
    grads = [one.requires_grad for one in operands if isinstance(one, torch.Tensor)]
    assert grads.count(True) >= 3, "keys, values and queries or receptances learn"
    outcomes = [run(probe=probe, **changes) for probe in ("layer", "operator")]
    assert [(outcome.status, outcome.error) for outcome in outcomes] == [(OK, None)] * 2
    flops = [outcome.facts["flops"] for outcome in outcomes]
    assert flops == [3 * block.flops(2, 48, 0, False), None]
