"""One token at a time: latency at a position, and the time of a whole text from nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from core import energy
from models.contract import State, clone_state
from probes.measure.counters import peak_memory
from probes.measure.tasks.timing import (
    Task,
    for_inference,
    peaks,
    repeat,
    state_bytes,
    tokens,
    wait,
)

WARMUP_TOKENS = 16


def decode(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """Seconds per token after a context of `length` tokens, over `decode_steps` tokens.

    Every repeat starts at the same position from a copy of the same state. `seconds` holds the mean
    of every repeat and `token_seconds` each token, the wait for a GPU included. The peak is read in
    an untimed pass before any copy exists, so it holds weights, state and one step; the memory
    limit must have room for the copy too. The state has room for `decode_steps` more tokens, which
    count in `state_bytes` where a cache grows.
    """
    for_inference(model, task)
    text = tokens(task, task.length + task.decode_steps)
    context, new = text[:, : task.length], text[:, task.length :]
    each: list[float] = []

    def steps(state: State) -> None:
        with torch.no_grad():
            last = time.perf_counter()
            for token in new.split(1, dim=1):
                _, state = model(token, state)
                wait(task)
                now = time.perf_counter()
                each.append(now - last)
                last = now

    def start() -> State:
        with torch.no_grad():
            room = model.init_state(task.batch, task.length + task.decode_steps)
            return model.next_logits(context, room)[1]

    state = start()
    held = state_bytes(state)
    peak_memory.reset_peak(task.device)
    steps(state)
    peak = peaks(task)
    del state
    kept = start()
    series = repeat(task, counter, lambda: clone_state(kept), steps)
    timed = each[-len(series.seconds) * task.decode_steps :]
    facts = series.facts(counter, parts=task.decode_steps)
    return {**facts, **peak, "token_seconds": timed, "state_bytes": held}


def generate(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """Seconds to generate `length` tokens one by one from an empty context, each the likeliest.

    A few tokens warm up. A long text is generated once: for real, to its end.
    """
    for_inference(model, task)
    first = tokens(task, 1)

    def text(count: int) -> State:
        token, state = first, model.init_state(task.batch, task.length)
        with torch.no_grad():
            for _ in range(count):
                logits, state = model(token, state)
                token = logits[:, -1:].argmax(-1)
        return state

    text(min(WARMUP_TOKENS, task.length))
    peak_memory.keep_blocks(
        task.device
    )  # the peak is that of the timed text: caches grow to its end
    series = repeat(replace(task, warmup=0), counter, lambda: None, lambda _: text(task.length))
    return {**series.facts(counter), **series.peaks, "state_bytes": state_bytes(series.last)}
