"""What the WKV operators share: two custom ops each, their choice of kernels, and the gradient.

An operator maps its inputs, a state and a back end to the outputs y and the state after the last
token. With gradients it also keeps checkpoints, the states before each chunk of K tokens, from
which the backward pass recomputes a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.ops import backends
from models.ops.custom_op import custom_op


class Recurrence:
    """The custom ops `crossover::<name>` and `crossover::<name>_backward`.

    `reference` and the native modules of `backends.BINDINGS` implement `<name>_forward(*inputs,
    state)`, the native ones with `save` last, and `<name>_backward(*inputs, checkpoints,
    grad_state, grad_y)`, which returns the gradients of the inputs and of the state.

    Args:
        inputs: names of the inputs.
        like: the input that y resembles.
        reference: the module of the readable implementation, with `CHUNK`.
        chunk_axis: the dimension of the checkpoints that counts chunks.
        flops: operations of the forward pass from the shapes of the inputs; backward takes twice
            as many.
        heads: whether the last dimension of `like` is a head size, which kernels may depend on.
    """

    keeps_end = False
    """Whether the backward op takes the state after the last token, behind the checkpoints."""

    def __init__(
        self,
        name: str,
        inputs: str,
        like: str,
        reference: ModuleType,
        chunk_axis: int,
        flops: Callable[..., int],
        heads: bool = True,
    ) -> None:
        names = inputs.split()
        self._name, self._reference, self._chunk_axis = name, reference, chunk_axis
        self._count, self._like, self._heads = len(names), names.index(like), heads
        self._forward_name, self._backward_name = f"{name}_forward", f"{name}_backward"
        given = ", ".join(f"Tensor {operand}" for operand in names)
        kept = ", Tensor checkpoints" + ", Tensor state_out" * self.keeps_end
        grads = ", ".join(f"Tensor grad_{operand}" for operand in [*names, "state_in"])
        self._op = custom_op(
            name,
            f"({given}, Tensor state, bool save, str backend)"
            " -> (Tensor y, Tensor state_out, Tensor checkpoints)",
            self._forward,
            self._fake_forward,
            remember=self._remember,
            differentiate=self._differentiate,
            flops=lambda *given: flops(*given[: len(names)]),
        )
        self._backward_op = custom_op(
            f"{name}_backward",
            f"({given}{kept}, Tensor? grad_y, Tensor? grad_state, str backend) -> ({grads})",
            self._backward,
            self._fake_backward,
            flops=lambda *given: 2 * flops(*given[: len(names)]),
        )

    def __call__(
        self, inputs: Sequence[Tensor], state: Tensor, backend: str
    ) -> tuple[Tensor, Tensor]:
        """y, and the state after the last token."""
        save = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, state))
        y, state, _ = self._op(*inputs, state, save, backend)
        return y, state

    def refuse(self, inputs: Sequence[Tensor]) -> None:
        """Raise `UserError` for values that the recurrence is not defined for."""

    def refuse_after(self, inputs: Sequence[Tensor], state: Tensor) -> None:
        """Raise `UserError` as `refuse`, where the state after the last token shows it."""

    def adjoint(self, grad_state: Tensor | None, kept: Sequence[Tensor]) -> Tensor:
        """What the backward pass begins with, from the gradient of the last state."""
        if grad_state is None:
            return torch.zeros_like(kept[0].select(self._chunk_axis, 0))
        return grad_state

    def grad_state_in(self, adjoint: Tensor, checkpoints: Tensor) -> Tensor:
        """The gradient of the state given, from what the backward pass ends with."""
        return adjoint

    def _kernels(self, backend: str, like: Tensor) -> Any:
        """The module of native kernels, or None: the reference. Looked up, once it was chosen."""
        size = like.shape[-1] if self._heads else None
        return backends.kernels(self._name, backend, like.device, like.dtype, size)

    def _forward(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, save, backend = arguments
        like = tensors[self._like]
        on_cpu = like.device.type == "cpu"  # elsewhere an error would need a synchronisation
        if on_cpu:
            self.refuse(tensors)
        kernels = self._kernels(backend, like)
        if kernels is not None:
            y, state, checkpoints = getattr(kernels, self._forward_name)(*tensors, save)
        else:
            y, state, checkpoints = getattr(self._reference, self._forward_name)(*tensors)
            y = y.to(like.dtype).contiguous()
            if not save:
                checkpoints = checkpoints.narrow(self._chunk_axis, 0, 0).clone()
        if on_cpu:
            self.refuse_after(tensors, state)
        return y, state, checkpoints

    def _fake_forward(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, state, save, _ = arguments
        like, chunk = tensors[self._like], self._reference.CHUNK
        shape = list(state.shape)
        shape.insert(self._chunk_axis, (like.shape[1] + chunk - 1) // chunk if save else 0)
        return like.new_empty(like.shape), state.new_empty(state.shape), state.new_empty(shape)

    def _backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, grad_y, grad_state, backend = arguments
        inputs, kept = tensors[: self._count], tensors[self._count :]
        like = inputs[self._like]
        if grad_y is None:
            grad_y = torch.zeros_like(like)
        module = self._kernels(backend, like) or self._reference
        backward = getattr(module, self._backward_name)
        *grads, adjoint = backward(*inputs, kept[0], self.adjoint(grad_state, kept), grad_y)
        grads = [grad.to(x.dtype).contiguous() for grad, x in zip(grads, inputs, strict=True)]
        return *grads, self.grad_state_in(adjoint, kept[0])

    def _fake_backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        inputs, checkpoints = arguments[: self._count], arguments[self._count]
        state = checkpoints.select(self._chunk_axis, 0)
        return *(x.new_empty(x.shape) for x in inputs), checkpoints.new_empty(state.shape)

    def _remember(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, save, ctx.backend = inputs
        _, state, checkpoints = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(checkpoints)
        if save:
            ctx.save_for_backward(*tensors, checkpoints, *[state] * self.keeps_end)

    def _differentiate(
        self, ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_y is None and grad_state is None:
            return (None,) * (self._count + 3)
        grads = self._backward_op(*ctx.saved_tensors, grad_y, grad_state, ctx.backend)
        return *grads, None, None
