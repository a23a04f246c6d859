"""What a rank of `test_spans.py` does: in a module of its own, so that children can import it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from core.errors import UserError
from models.long_context.segments import segmented_objective
from models.long_context.sequence_parallel import (
    own_span,
    sequence_parallel,
    spanned_objective,
    sum_gradients,
)
from tests.registered_models import NAMES, VARIANTS, is_recurrent, shaken, some_tokens

LENGTH = 60


def launch(work: Callable[..., None], world: int, folder: Path) -> list[Any]:
    """`work(rank)` in `world` processes joined by gloo; what each returned."""
    mp.start_processes(_rank, (world, work, str(folder)), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _rank(rank: int, world: int, work: Callable[..., Any], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.save(work(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    return some_tokens(2, LENGTH), some_tokens(2, LENGTH, seed=9)


def everything(rank: int) -> dict[str, Any]:
    """All of the below, for one start of processes."""
    return {
        "spans": spans_of_every_model(rank),
        "continued": spans_with_state_and_segments(rank),
        "parallel": segments_under_data_parallelism(rank),
        "refused": refusals(rank),
    }


def spans_of_every_model(rank: int) -> dict[str, Any]:
    """Logits of the rank's span, the loss and the summed gradients, by model."""
    found = {}
    for name in VARIANTS:
        model = shaken(name)
        if not model.can_span:
            continue
        tokens, targets = whole_batch()
        with sequence_parallel() as split:
            with torch.no_grad():
                logits, _ = model(own_span(split, tokens))
            objective, loss = spanned_objective(model, tokens, targets, l2wrap=1e-2)
            objective.backward()
            sum_gradients(model, split)
        found[name] = {"logits": logits, "loss": loss, "gradients": gradients(model)}
    return found


def spans_with_state_and_segments(rank: int) -> dict[str, Any]:
    """A split sequence continued from a state; and split segments, their blocks recomputed."""
    found: dict[str, Any] = {}
    for name in filter(is_recurrent, NAMES):
        model = shaken(name)
        if not model.can_span:
            continue
        tokens, targets = whole_batch()
        with sequence_parallel() as split:
            with torch.no_grad():
                half = LENGTH // 2
                first, state = model(own_span(split, tokens[:, :half]), model.init_state(2))
                second, state = model(own_span(split, tokens[:, half:]), state)
            model.gradient_checkpointing = True
            x, y = own_segments(split, tokens, 20), own_segments(split, targets, 20)
            objective, _ = segmented_objective(model, x, y, 20 // split.world)
            (objective / split.world).backward()
            sum_gradients(model, split)
        found[name] = {"logits": (first, second), "state": state, "gradients": gradients(model)}
    return found


def own_segments(split: Any, tokens: torch.Tensor, segment: int) -> torch.Tensor:
    """This rank's span of every segment, one after the other."""
    return torch.cat([own_span(split, one) for one in tokens.split(segment, dim=1)], dim=1)


def segments_under_data_parallelism(rank: int) -> dict[str, torch.Tensor]:
    """One row per rank, read in segments, gradients averaged by DDP's hooks."""

    class Objective(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = shaken("rwkv7")

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return segmented_objective(self.model, x, y, 25)[0]

    parallel = DistributedDataParallel(Objective())
    tokens, targets = whole_batch()
    parallel(tokens[rank : rank + 1], targets[rank : rank + 1]).backward()
    return gradients(parallel.module.model)


def refusals(rank: int) -> list[str]:
    messages = []
    model, tokens = shaken("transformer"), some_tokens(2, LENGTH)
    starts = torch.zeros(2, LENGTH, dtype=torch.bool)
    lstm = shaken("lstm")
    with sequence_parallel() as split:
        for call in (
            lambda: own_span(split, tokens[:, 1:]),
            lambda: model(tokens, model.init_state(2)),
            lambda: model(tokens, starts=starts),
            lambda: lstm(tokens),
        ):
            with pytest.raises(UserError) as caught:
                call()
            messages.append(str(caught.value))
    return messages
