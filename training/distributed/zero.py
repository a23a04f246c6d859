"""DeepSpeed's ZeRO on GPUs and CPUs: optimizer (1), gradients (2) and weights (3) shared out."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy
from torch import Tensor, distributed, nn

from core.errors import UserError
from models.layers.compiled import NONE, in_use


class Piece(NamedTuple):
    """What this process keeps of a parameter: `flat[start : start + size]`, in fp32, are its
    elements from `first` on."""

    flat: Tensor
    start: int
    first: int
    size: int


class Zero(DeepSpeedStrategy):
    """Lightning's strategy, with a CPU allowed and with ordinary checkpoints.

    Weights and gradients stay in fp32; `bf16-mixed` casts as it does elsewhere, by autocast, and
    not by DeepSpeed's own conversion of the whole model.
    """

    def __init__(self, stage: int, offload: bool, precision: str, on_cpu: bool) -> None:
        if on_cpu:  # DeepSpeed looks here, once, when it is first imported
            os.environ["DS_ACCELERATOR"] = "cpu"
        super().__init__(
            stage=stage,
            offload_optimizer=offload,
            offload_parameters=offload and stage == 3,
            logging_level=logging.ERROR,
        )
        assert isinstance(self.config, dict)
        self.config["train_micro_batch_size_per_gpu"] = 1  # only its own log reads it
        # Torch's AdamW, as with every other strategy, also where the state lies in CPU memory.
        self.config["zero_force_ds_cpu_optimizer"] = False
        # Else stage 3 replaces `torch.nn.functional.linear`, for good, by a slower function.
        self.config["zero_optimization"]["memory_efficient_linear"] = False
        self._precision = precision
        self._parameters: list[list[nn.Parameter]] = []  # of each optimizer group

    def setup_environment(self) -> None:
        """Set up as inherited, without the refusal of CPUs."""
        from deepspeed.accelerator import get_accelerator

        if (kind := get_accelerator().device_name()) != self.root_device.type:
            raise UserError(
                f"DeepSpeed serves one kind of device in a process, here {kind}: start the runs on "
                f"{self.root_device.type} with another command"
            )
        ParallelStrategy.setup_environment(self)
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _init_deepspeed_distributed(self) -> None:
        import deepspeed

        # All that it reads of the environment, the processes having met already.
        places = {"RANK": self.global_rank, "LOCAL_RANK": self.local_rank}
        os.environ |= {key: str(value) for key, value in places.items()}
        if self.root_device.type == "cpu":
            # DeepSpeed would compile collectives over shared memory, and gloo serves everywhere.
            # `deepspeed.comm.torch` as an attribute is PyTorch itself.
            transport: Any = importlib.import_module("deepspeed.comm.torch")
            transport.build_shm_op = lambda: None
        deepspeed.init_distributed(auto_mpi_discovery=False)

    def teardown(self) -> None:
        """Tear down, and make DeepSpeed forget the processes: the next run may have others."""
        import deepspeed

        super().teardown()
        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None
    ) -> Any:
        """Set up as inherited, with a device rank on CPUs too."""
        import deepspeed

        module: Any = self.lightning_module
        if self._precision == "bf16-mixed":  # within the engine, which ends any autocast around it
            for name in ("training_step", "validation_step"):
                cast = torch.autocast(self.root_device.type, torch.bfloat16)
                setattr(module, name, cast(getattr(module, name)))
        self._parameters = [list(group["params"]) for group in optimizer.param_groups]
        assert isinstance(self.config, dict)
        # A few vectors of the model's width stay whole (the rule of Hugging Face's trainer);
        # DeepSpeed's own limit of 100,000 elements would leave a small model whole.
        limit = 10 * module.model.config.n_embd
        self.config["zero_optimization"]["stage3_param_persistence_threshold"] = limit
        if self.zero_stage_3 and in_use(module.model)["compile"] != NONE:
            # A compiled block is called with all its weights there: no hooks inside. Gradients are
            # reduced one by one as ever: for those of a leaf DeepSpeed would wait for a hook that
            # torch never calls, since what a block is given is no tensor but holds some.
            leaves = importlib.import_module("deepspeed.utils.z3_leaf_module")
            leaves.set_z3_leaf_modules(model, [*{type(block) for block in module.model.layers}])
            stage: Any = importlib.import_module("deepspeed.runtime.zero.stage3")
            stage.z3_leaf_parameter = lambda _: False
        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.root_device.index or 0),
            config=self.config,
            model=model,
            model_parameters=list(model.parameters()),
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped

    def backward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Differentiate undivided: Lightning has divided by the number of micro-batches already."""
        return super().backward(*args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Step as inherited: DeepSpeed clips, and takes no step that would not be finite."""
        is_last = self.deepspeed_engine.is_gradient_accumulation_boundary()
        done = super().optimizer_step(*args, **kwargs)
        if is_last:
            norm = torch.as_tensor(self.deepspeed_engine.get_global_grad_norm())
            self.lightning_module.check_gradients(norm)  # type: ignore[union-attr, operator]
        return done

    # Checkpoints: the ordinary file. Weights are loaded before DeepSpeed shares them out.

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, *args, **kwargs)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        ParallelStrategy.load_model_state_dict(self, checkpoint, strict)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters())
        return {
            name: self._whole(parameters[name], None) if name in parameters else value
            for name, value in self.lightning_module.state_dict().items()
        }

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        groups: list[dict[str, Any]] = []
        state: dict[int, dict[str, Any]] = {}
        for group, parameters in zip(optimizer.param_groups, self._parameters, strict=True):
            first = len(state)
            for index, parameter in enumerate(parameters, start=first):
                state[index] = {
                    "step": self._flat_state(parameter)["step"],
                    "exp_avg": self._whole(parameter, "exp_avg"),
                    "exp_avg_sq": self._whole(parameter, "exp_avg_sq"),
                }
            groups.append({**group, "params": list(range(first, len(state)))})
        return {"state": state, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Every process takes its pieces out of the whole."""
        (content,) = checkpoint["optimizer_states"]
        zero: Any = self.optimizers[0]
        for group, saved in zip(zero.optimizer.param_groups, content["param_groups"], strict=True):
            group |= {key: value for key, value in saved.items() if key != "params"}
        parameters = [parameter for group in self._parameters for parameter in group]
        for index, parameter in enumerate(parameters):
            flat, start, first, count = self._piece(parameter)
            saved = content["state"][index]
            state = zero.optimizer.state[flat]
            state["step"] = saved["step"].clone()
            for key in ("exp_avg", "exp_avg_sq"):
                moments = state.setdefault(key, torch.zeros_like(flat))
                part = saved[key].reshape(-1)[first : first + count]
                moments[start : start + count] = part.to(moments)

    def _flat_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        zero: Any = self.optimizers[0]
        return zero.optimizer.state[self._piece(parameter).flat]

    def _whole(self, parameter: nn.Parameter, key: str | None) -> Tensor | None:
        """A parameter, or a moment of it, on process 0; all processes must call it."""
        flat, start, first, count = self._piece(parameter)
        source = flat if key is None else self._flat_state(parameter)[key]
        shape = getattr(parameter, "ds_shape", parameter.shape)
        total = torch.zeros(shape.numel(), device=self.root_device)
        total[first : first + count] = source.detach()[start : start + count].to(total)
        distributed.reduce(total, 0)  # one process has it, the others add zero: exact
        return total.view(shape).cpu() if self.is_global_zero else None

    def _piece(self, parameter: Any) -> Piece:
        zero: Any = self.optimizers[0]
        if self.zero_stage_3:
            group, start, size = zero.grad_position[zero.get_param_id(parameter)]
            first = self.global_rank * size
            count = max(0, min(size, parameter.ds_numel - first))
            return Piece(zero.fp32_partitioned_groups_flat[group], start, first, count)
        (group,) = (
            i
            for i, parameters in enumerate(self._parameters)
            if any(each is parameter for each in parameters)
        )
        flat = zero.single_partition_of_fp32_groups[group]
        mapping = parameter._hp_mapping
        if mapping is None:  # all of it lies with other processes
            return Piece(flat, 0, 0, 0)
        there, here = mapping.lp_fragment_address, mapping.hp_fragment_address
        return Piece(flat, here.start, there.start, there.numel)
