"""One token at a time: latency at a position, and the time of a whole text from nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from core import energy
from models.contract import State
from models.decoding.captured import Decoder
from models.layers.compiled import NONE
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
    count in `state_bytes` where a cache grows. What is captured or compiled first is not timed.
    """
    for_inference(model, task)
    text = tokens(task, task.length + task.decode_steps, place=task.length - 1)
    context, new = text[:, : task.length], text[:, task.length :]
    each: list[float] = []

    def steps(decoder: Decoder) -> None:
        with torch.no_grad():
            last = time.perf_counter()
            for token in new.split(1, dim=1):
                decoder(token)
                wait(task)
                now = time.perf_counter()
                each.append(now - last)
                last = now

    def start() -> State:
        with torch.no_grad():
            room = model.init_state(task.batch, task.length + task.decode_steps)
            return model.next_logits(context, room)[1]

    if task.compile != NONE:
        steps(Decoder(model, start()))
    state = start()
    held = state_bytes(state)
    decoder = Decoder(model, state)
    del state
    peak_memory.reset_peak(task.device)
    steps(decoder)
    peak = peaks(task)
    decoder.forget()
    kept = start()

    def again() -> Decoder:
        decoder.load(kept)
        return decoder

    series = repeat(task, counter, again, steps)
    timed = each[-len(series.seconds) * task.decode_steps :]
    facts = series.facts(counter, parts=task.decode_steps)
    said = {"backends": {"step": decoder.how}}
    return {**facts, **peak, "token_seconds": timed, "state_bytes": held, **said}


def generate(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """Seconds to generate `length` tokens one by one from an empty context, each the likeliest.

    A few tokens warm up. A long text is generated once: for real, to its end.
    """
    for_inference(model, task)
    first = tokens(task, 1)

    def text(count: int) -> Decoder:
        """On a GPU with all captures, as many as a cache that grows needs."""
        token = first
        with torch.no_grad():
            decoder = Decoder(model, model.init_state(task.batch, task.length))
            for _ in range(count):
                token = decoder(token)[:, -1:].argmax(-1)
        return decoder

    text(min(WARMUP_TOKENS, task.length))
    peak_memory.keep_blocks(
        task.device
    )  # the peak is that of the timed text: caches grow to its end
    task = replace(task, warmup=0, compile=NONE)  # the few tokens have compiled what there is
    series = repeat(task, counter, lambda: None, lambda _: text(task.length))
    decoder: Decoder = series.last
    last = {"state_bytes": state_bytes(decoder.state), "backends": {"step": decoder.how}}
    return {**series.facts(counter), **series.peaks, **last}
