"""What the processes of `test_half_gather.py` do, in a module that children can import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from models.registry import build
from tests.registered_models import some_tokens, spec_of
from training.distributed.half_gather import HalfGather, gather_in_half


def losses(rank: int, world: int, port: int, names: list[str], out: Path) -> None:
    """Loss, gradients and sent bytes of each model, with matrices gathered in fp32 and in bf16."""
    torch.set_num_threads(1)
    store = distributed.TCPStore("127.0.0.1", port, world)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found: dict[str, Any] = {}
    for name in names:
        for half in (False, True):
            torch.manual_seed(0)
            model: Any = build(spec_of(name))
            mesh = init_device_mesh("cpu", (world,))
            gathers: list[HalfGather] = []
            for unit in (*model.layers, model):
                fully_shard(unit, mesh=mesh)
                comm = gather_in_half(unit)
                if not half:  # the same, but nothing is rounded
                    comm._halves = [False] * len(comm._halves)
                gathers.append(comm)
            tokens = some_tokens(2, 24, seed=rank)
            with torch.autocast("cpu", torch.bfloat16):
                logits, _ = model(tokens)
                loss = logits.float().logsumexp(-1).mean()
            loss.backward()
            found[f"{name} {half}"] = (
                loss.detach(),
                [p.grad.full_tensor() for p in model.parameters() if p.grad is not None],
                sum(comm.sent_bytes for comm in gathers),
                sum(p.numel() for p in model.parameters()),
            )
    if rank == 0:
        torch.save(found, out)
    distributed.destroy_process_group()
