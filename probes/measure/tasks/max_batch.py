"""One try of a batch size, for the search of the largest in `probes/measure/max_batch.py`."""

from __future__ import annotations

from typing import Any

import torch

from core import energy
from models.contract import State
from models.layers.compiled import NONE
from probes.measure.counters import peak_memory
from probes.measure.tasks.timing import Task, for_inference, repeat, state_bytes, tokens

CHUNK = 1024  # tokens read at once, so that reading the context is not what fills the memory


def decode(model: Any, task: Task, counter: energy.Counter) -> dict[str, Any]:
    """`batch` sequences of `length` tokens each decode a few tokens more, all at once.

    One context is read and its state repeated: as many bytes as if every sequence had its own. The
    peak holds weights, states and the work of a step; one step warms up, `seconds` are the others.
    """
    for_inference(model, task)
    context = tokens(task, task.length, batch=1, place=task.length - 1)
    room = task.length + task.warmup + task.repeats + (task.compile != NONE)
    with torch.no_grad():
        single = model.init_state(1, room)
        for part in context.split(CHUNK, dim=1):
            _, single = model.next_logits(part, single)
        states = [repeated(model, single, task.batch)]
        held = state_bytes(states[0])
        del single
        peak_memory.reset_peak(task.device)
        token = tokens(task, 1)

        def step(_: None) -> None:
            _, states[0] = model(token, states[0])

        series = repeat(task, counter, lambda: None, step)
    return {**series.facts(counter), **series.peaks, "state_bytes": held}


def repeated(model: Any, state: State, batch: int) -> State:
    """The state of one sequence for `batch` equal ones.

    Which axis counts sequences is seen in the shapes of empty states of two and of three.
    """
    two, three = model.init_state(2), model.init_state(3)

    def widen(first: State, second: State, third: State) -> State:
        wide: State = {}
        for name, value in first.items():
            if not isinstance(value, torch.Tensor):
                wide[name] = widen(value, second[name], third[name])
                continue
            shapes = zip(second[name].shape, third[name].shape, strict=True)
            times = [batch if a != b else 1 for a, b in shapes]
            wide[name] = value.repeat(times) if times else value
        return wide

    return widen(state, two, three)
