"""Parts of a model: one block, and the operator in it that mixes tokens, forward and backward.

A crossover of whole models depends on what all share (embedding, head, loss); these two leave it
out. Both see the tensors they would see in the model: the layers below have read the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core import energy
from core.errors import UserError
from models.layers.trunk import Block, Stream, Trunk
from models.ops import intercept
from probes.measure.tasks.timing import Task, autocast, repeat, tokens


def layer(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """Forward and backward of the middle block, gradients of weights and input included."""
    block, stream = middle(model, task)

    def step(_: None) -> None:
        with autocast(task):
            after, _state = block(stream, None)
        _backward(after.x)

    def forget() -> None:
        block.zero_grad(set_to_none=True)
        for tensor in _tensors(stream):
            tensor.grad = None

    series = repeat(task, counter, forget, step)
    return {**series.facts(counter), **series.peaks}


def operator(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """Forward and backward of WKV or attention alone, on the operands the middle block gives it."""
    mixer, operands = mixing(model, task)

    def step(_: None) -> None:
        with autocast(task):
            result = mixer(*operands)
        _backward(result if isinstance(result, Tensor) else result[0])

    def forget() -> None:
        for tensor in _tensors(operands):
            tensor.grad = None

    series = repeat(task, counter, forget, step)
    return {**series.facts(counter), **series.peaks}


def mixing(model: Any, task: Task) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The operator of the middle block and what the block gives it, cut out of the graph."""
    block, stream = middle(model, task)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def record(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if function in intercept.MIXERS:
            calls.append((function, arguments))
        return function(*arguments)

    with autocast(task), intercept.intercept(record):
        block(stream, None)
    if not calls:
        raise UserError(
            f"{task.spec.name} has no operator to measure: its blocks call no function that "
            "models.ops.intercept.mixer marks"
        )
    operator, operands = calls[0]
    return operator, tuple(
        x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in operands
    )


def middle(model: Any, task: Task) -> tuple[Block, Stream]:
    """The block in the middle, and the stream that reaches it, which gathers gradients.

    Raises `UserError` for a model that is not built on the trunk.
    """
    if not isinstance(model, Trunk):
        raise UserError(
            f"{task.spec.name} is not a models.layers.trunk.Trunk: it has no layer to measure"
        )
    model.train()
    place = len(model.layers) // 2
    with torch.no_grad(), autocast(task):
        stream = model.embed(tokens(task, task.length), None)
        for block in model.layers[:place]:
            stream, _ = block(stream, None)
    # Residuals [B, T, C] become leaves; the tables beside them learn nothing.
    first = stream.first_value
    learned = None if first is None else first.detach().requires_grad_()
    stream = stream._replace(x=stream.x.detach().requires_grad_(), first_value=learned)
    return model.layers[place], stream


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, tuple):
        return [tensor for part in tree for tensor in _tensors(part)]
    return [tree] if isinstance(tree, Tensor) and tree.requires_grad else []


def _backward(y: Tensor) -> None:
    y.backward(torch.ones_like(y))
