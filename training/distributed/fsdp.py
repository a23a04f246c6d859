"""FSDP: each process keeps a share of every weight, gradient and moment (PyTorch's FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from models.formats.run_checkpoints import SHARDS
from models.formats.sharded import Shards
from training.distributed.half_gather import gather_in_half

WEIGHTS, MOMENTS = "state_dict", "optimizer_states"  # of Lightning's checkpoints


class FullyShard(DDPStrategy):
    """Shards in place where DDP would wrap, one block at a time or all `at_once`.

    A checkpoint's weights are loaded before the model is sharded, its optimizer state after. Works
    on CPUs over gloo as on GPUs; Lightning's own FSDP and ModelParallel strategies want GPUs.
    """

    def __init__(self, at_once: bool, offload: bool, sharded: bool, half: bool = False) -> None:
        """`sharded`: a checkpoint gets the shares of each process, and none is gathered.

        `half`: products are made in bf16, and so are matrices sent.
        """
        super().__init__()
        self._half = half
        self._gathers = not sharded
        self._start: Shards | None = None
        """The sharded checkpoint that is being continued."""
        self._at_once = at_once
        self._offload = CPUOffloadPolicy() if offload else OffloadPolicy()

    def configure_ddp(self) -> None:
        module: Any = self.lightning_module
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        blocks = [] if self._at_once else module.model.layers
        for unit in (*blocks, module):  # the last holds what is left: embedding, norm, head
            fully_shard(unit, mesh=mesh, offload_policy=self._offload)
            if self._half:
                gather_in_half(unit)
        for name in ("training_step", "validation_step"):
            register_fsdp_forward_method(module, name)
        if self._start is not None:
            weights = module.state_dict().items()
            self._read({f"{WEIGHTS}/{n}": one for n, one in weights if isinstance(one, DTensor)})

    def teardown(self) -> None:
        """Tear down, but leave shards where they are: they cannot move to a CPU afterwards."""
        assert self.cluster_environment is not None and self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        weights = self.lightning_module.state_dict()
        return self._whole(weights) if self._gathers else weights

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state = optimizer.state_dict()
        return self._whole(state) if self._gathers else state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        if self._gathers:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        else:  # every process has a part to write
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        if SHARDS not in checkpoint:
            super().load_model_state_dict(checkpoint, strict)
            return
        self._start = Shards(Path(checkpoint[SHARDS]))  # read once there are shares to fill
        kept = {name: one for name, one in checkpoint[WEIGHTS].items() if not one.is_meta}
        super().load_model_state_dict({WEIGHTS: kept}, strict=False)

    def _read(self, shares: dict[str, DTensor]) -> None:
        """Fill this process's shares of tensors from the checkpoint."""
        assert self._start is not None
        # Few rows may leave none for this process.
        self._start.load({name: one for name, one in shares.items() if one.to_local().numel()})

    def _whole(self, tree: Any) -> Any:
        """Nested dicts and lists with every sharded tensor gathered, for process 0.

        All processes must call it; in the others there is None where a tensor was sharded.
        """
        if isinstance(tree, DTensor):
            tensor = tree.full_tensor()
            return tensor.cpu() if self.is_global_zero else None
        if isinstance(tree, dict):
            return {key: self._whole(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self._whole(value) for value in tree]
        return tree

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        shares: dict[str, DTensor] = {}

        def share(place: str, value: Any, parameter: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_meta:
                return _shared(value, parameter)
            empty: Any = torch.zeros_like(parameter, dtype=torch.float32)
            return shares.setdefault(place, empty)

        states = []
        for number, (optimizer, content) in enumerate(
            zip(self.optimizers, checkpoint[MOMENTS], strict=True)
        ):
            parameters = [
                parameter for group in optimizer.param_groups for parameter in group["params"]
            ]
            state = {
                index: {
                    key: share(f"{MOMENTS}/{number}/state/{index}/{key}", value, parameters[index])
                    for key, value in values.items()
                }
                for index, values in content["state"].items()
            }
            states.append({**content, "state": state})
        if shares:
            self._read(shares)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._start = None


def _shared(value: Any, parameter: nn.Parameter) -> Any:
    """A whole tensor of an optimizer's state, sharded as the parameter it belongs to."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    assert isinstance(parameter, DTensor)
    on_device = value.to(parameter.device, torch.float32 if value.is_floating_point() else None)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements)
