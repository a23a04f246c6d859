"""Whole passes over a context: a training step, a prefill, and the time to the first token."""

from __future__ import annotations

from typing import Any

import torch

from core import energy
from probes.measure.tasks.timing import Task, autocast, for_inference, repeat, state_bytes, tokens


def train(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """Forward and backward of the mean loss over the whole batch, without an optimizer.

    Gradients start as `None` in every repeat. The peak holds weights, gradients and activations.
    """
    model.train()
    text = tokens(task, task.length + 1)
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()

    def step(_: None) -> None:
        with autocast(task):
            loss, _state = model.loss(inputs, targets)
        loss.backward()

    series = repeat(task, counter, lambda: model.zero_grad(set_to_none=True), step)
    return {**series.facts(counter), **series.peaks}


def prefill(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """From tokens to a state that decoding can start from, `init_state` included.

    The logits of every position, `[B, T, V]`, are computed as `forward` promises them, as scoring a
    text needs; `first_token` does without all but the last.
    """
    for_inference(model, task)
    text = tokens(task, task.length)

    def read(_: None) -> Any:
        with torch.no_grad():
            return model(text, model.init_state(task.batch, task.length))[1]

    series = repeat(task, counter, lambda: None, read)
    return {**series.facts(counter), **series.peaks, "state_bytes": state_bytes(series.last)}


def first_token(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """From a prompt to its first new token: state, last position's logits, and their argmax."""
    for_inference(model, task)
    prompt = tokens(task, task.length)

    def answer(_: None) -> Any:
        with torch.no_grad():
            state = model.init_state(task.batch, task.length + 1)
            logits, state = model.next_logits(prompt, state)
            logits.argmax(-1).tolist()  # a token that somebody could print
            return state

    series = repeat(task, counter, lambda: None, answer)
    return {**series.facts(counter), **series.peaks, "state_bytes": state_bytes(series.last)}
