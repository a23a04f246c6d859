"""Matrices that are gathered in bf16 give the bits of those that are gathered in fp32."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch.distributed import TCPStore

from tests.training.distributed.half_ranks import losses

NAMES = ["rwkv7", "transformer"]


def test_nothing_changes_but_the_bytes(tmp_path: Path) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    out = tmp_path / "found.pt"
    arguments = (2, store.port, NAMES, out)
    mp.start_processes(losses, arguments, nprocs=2, start_method="forkserver")
    found = torch.load(out)
    for name in NAMES:
        (loss, grads, whole, _), (rounded, others, sent, count) = (
            found[f"{name} {half}"] for half in (False, True)
        )
        assert torch.equal(loss, rounded), name
        assert len(grads) == len(others) > 10
        assert all(torch.equal(*pair) for pair in zip(grads, others, strict=True)), name
        assert 0.5 * whole < sent < 0.8 * whole, name  # embeddings and vectors stay fp32
        assert whole > 2 * count  # bytes of one of two processes, at least once
