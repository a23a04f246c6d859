"""FSDP's gathering of weights with the matrices in bf16, which is how bf16-mixed multiplies them.

Weights stay fp32 on both sides, and autocast rounds the same matrices again: the results are those
of gathering fp32, to the bit, with little more than half of the bytes on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule

from models.meta import linear_weights


class HalfGather:
    """Torch's `AllGather` of one unit of FSDP: `output[world * n]` from each process's `input[n]`.

    `parts` are the sizes of the shares in `input`, in their order, and whether they are sent in
    bf16. Anything else than fp32 of this size is gathered as it is.
    """

    def __init__(self, parts: Sequence[tuple[int, bool]]) -> None:
        self._sizes = [size for size, _ in parts]
        self._halves = [half for _, half in parts]
        self.sent_bytes = 0
        """Handed to the network by this process so far."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False
    ) -> None:
        if input_tensor.dtype != torch.float32 or input_tensor.numel() != sum(self._sizes):
            self._gather(output_tensor, input_tensor, group)
            return
        world = group.size()
        shares = input_tensor.split(self._sizes)  # of memory that the output will overwrite
        sent = {
            half: torch.cat([s for s, h in zip(shares, self._halves, strict=True) if h == half])
            for half in {*self._halves}
        }
        whole = output_tensor.view(world, -1).split(self._sizes, 1)
        for half, flat in sent.items():
            flat = flat.bfloat16() if half else flat
            gathered = flat.new_empty(world, flat.numel())
            self._gather(gathered.view(-1), flat, group)
            into = [w for w, h in zip(whole, self._halves, strict=True) if h == half]
            torch._foreach_copy_(into, [*gathered.split([part.shape[1] for part in into], 1)])

    def _gather(self, output: Tensor, flat: Tensor, group: Any) -> None:
        self.sent_bytes += flat.nbytes * (group.size() - 1)
        distributed.all_gather_into_tensor(output, flat, group=group)


def gather_in_half(unit: FSDPModule) -> HalfGather:
    """Let a unit of FSDP gather the weights of its linear layers in bf16.

    A weight that is an embedding too stays fp32, because it is read without being rounded.
    """
    state: Any = unit._get_fsdp_state()
    (group,) = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
    module: Any = unit
    halves = {id(weight) for weight in linear_weights(module)}
    comm = HalfGather(
        [
            (each._sharded_param_data.numel(), id(each.sharded_param) in halves)
            for each in group.fsdp_params
        ]
    )
    unit.set_custom_all_gather(comm)  # type: ignore[arg-type]
    return comm
