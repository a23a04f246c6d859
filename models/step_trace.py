"""The operations of one training step, traced without running it.

The model is built from tensors that have a shape and no memory (torch's `FakeTensorMode`) and goes
through forward and backward. Every operation that reaches the device leaves an `Op`: its kind, its
arithmetic, the bytes it must move, and how many bytes are alive once it is done. Nothing here is a
formula of a model, so a change to one changes its plan. Scratch memory that a kernel takes and
returns on its own is not seen.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from models.layers.loss import loss_as_on
from models.ops.elementwise.fused import launches, native_as_on
from models.registry import ModelSpec, build

PRECISIONS = {
    "32-true": torch.float32,
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}

# Phases of a step, in order. Bytes are most at the end of the forward pass or of the backward
# pass, depending on whether a block's activations or its gradients are larger.
EARLIER, LAST, LOSS, TOP, BELOW = range(5)
"""Forward of all blocks but the last; of the last; the loss; backward of the last block; rest."""

ATEN = torch.ops.aten
ONLY_MEMORY = (ATEN.empty, ATEN.empty_like, ATEN.empty_strided, ATEN.new_empty)
FILLED = (
    ATEN.new_zeros,
    ATEN.new_ones,
    ATEN.new_full,
    ATEN.zeros_like,
    ATEN.ones_like,
    ATEN.full_like,
)
"""They read nothing of the tensor that they are like."""
BY_INDEX = (ATEN.gather, ATEN.scatter, ATEN.scatter_, ATEN.scatter_add, ATEN.scatter_add_)

THIN = 128  # columns of a product below which it is bound by its operands, not its arithmetic


@dataclass(frozen=True)
class Op:
    """One operation on the device, and the memory that is alive when it is done."""

    kind: str
    """`matmul`, `thin matmul`, `attention`, `recurrence` (any other kernel that a formula says the
    operations of: WKV, torch's LSTM, those of others), `memory`, or a fused op of Crossover; with
    ` backward` where the backward pass is an operation of its own."""
    phase: int
    flops: float
    bytes: float
    """Read and written, every operand once."""
    activations: float
    """Bytes alive besides weights and gradients."""
    gradients: float
    seconds: float = 0.0
    """Measured seconds of a step that was really run; else 0."""
    count: float = 1
    """How many operations this one stands for."""


def trace(
    spec: ModelSpec,
    batch: int,
    length: int,
    layers: int,
    device: str,
    precision: str,
    checkpointing: bool,
) -> list[Op]:
    """Forward and backward of `loss` on `[batch, length]` tokens with so many layers.

    `device` says whose kernels are meant: `cpu` or `cuda`.
    """
    deep = replace(spec, config={**spec.config, "n_layer": layers})
    with FakeTensorMode(), contextlib.ExitStack() as kernels:
        if device == "cuda":
            kernels.enter_context(native_as_on(device))
            kernels.enter_context(loss_as_on(device))
        model: Any = build(deep)
        if precision == "bf16-true":
            # What `model.to` does, which tensors without memory refuse.
            for module in model.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, torch.nn.Parameter(parameter.detach().bfloat16()))
                for name, buffer in list(module.named_buffers(recurse=False)):
                    if buffer.is_floating_point():
                        setattr(module, name, buffer.bfloat16())
        model.gradient_checkpointing = checkpointing
        tokens = torch.zeros(batch, length, dtype=torch.long)
        return run(model, tokens, precision)


def kept_bytes(spec: ModelSpec, length: int, checkpointing: bool, precision: str) -> int:
    """Bytes that the forward pass of one sequence keeps for its backward pass.

    With `checkpointing` these are the inputs of the blocks, and what one block keeps.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = spec.config["n_layer"]
    ops = trace(spec, 1, length, layers, device, precision, checkpointing)
    kept = int(next(op.activations for op in ops if op.phase > LOSS))
    if checkpointing:
        kept += kept_bytes(spec, length, False, precision) // layers
    return kept


def run(
    model: Any, tokens: Tensor, precision: str, clock: Callable[[], float] = time.perf_counter
) -> list[Op]:
    """The operations of one step, really run or not, whatever `model` is made of."""
    recorder = Recorder([tokens, *model.parameters(), *model.buffers()], clock)
    with recorder, contextlib.ExitStack() as hooks:
        for hook in _hooks(model, recorder):
            hooks.callback(hook.remove)
        mixed = precision.endswith("-mixed")
        with torch.autocast("cpu", PRECISIONS[precision]) if mixed else contextlib.nullcontext():
            loss, _ = model.loss(tokens, tokens)
        recorder.phase = TOP
        loss.backward()
        del loss
    return recorder.ops


def _hooks(model: Any, recorder: Recorder) -> Iterator[Any]:
    """Mark for the recorder when a phase begins, and when a tensor becomes a gradient."""

    def reached(phase: int) -> None:
        recorder.phase = max(recorder.phase, phase)  # blocks run again where they are recomputed

    yield model.blocks[-1].register_forward_pre_hook(lambda *_: reached(LAST))
    yield model.ln_out.register_forward_hook(lambda *_: reached(LOSS))
    below = {id(weight) for block in model.blocks[-2:-1] for weight in block.parameters()}

    def accumulated(parameter: Tensor) -> None:
        if id(parameter) in below:
            reached(BELOW)
        assert parameter.grad is not None
        recorder.call_gradient(parameter.grad)

    for parameter in model.parameters():
        yield parameter.register_post_accumulate_grad_hook(accumulated)


class Recorder(TorchDispatchMode):
    """Record every operation below autograd, and every storage from its creation to its release."""

    def __init__(self, inputs: list[Tensor], clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self.ops: list[Op] = []
        self.phase = EARLIER
        self._gradients: set[int] = set()
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in inputs}
        self._activation_bytes = self._gradient_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        start = self._clock()
        out = func(*args, **kwargs)
        seconds = self._clock() - start
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        fresh = sum([self._keep(result) for result in results])
        read = {name: value for name, value in kwargs.items() if name != "out"}
        operands = [leaf for leaf in tree_leaves((args, read)) if isinstance(leaf, Tensor)]
        writes = fresh > 0 or func._schema.is_mutable
        # Anything else is a view, asks for a property, or only takes memory.
        if writes and func._overloadpacket not in ONLY_MEMORY:
            self.ops.append(self._op(func, args, kwargs, out, operands, results, seconds))
        return out

    def call_gradient(self, tensor: Tensor) -> None:
        """Count the tensor as a gradient from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._sizes and key not in self._gradients:
            self._gradients.add(key)
            self._activation_bytes -= self._sizes[key]
            self._gradient_bytes += self._sizes[key]

    def _op(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        operands: list[Tensor],
        results: list[Tensor],
        seconds: float,
    ) -> Op:
        kind, flops = _arithmetic(func, args, kwargs, out)
        if func._overloadpacket in BY_INDEX:  # of the first operand only what the index names
            index = operands[1]
            moved = _bytes(index) + 2 * index.numel() * results[0].element_size()
        elif func._overloadpacket in FILLED:
            moved = sum(map(_bytes, results))
        else:
            once = {tensor.untyped_storage()._cdata: _bytes(tensor) for tensor in operands}
            moved = sum(once.values()) + sum(map(_bytes, results))
        return Op(
            kind,
            self.phase,
            flops,
            moved,
            self._activation_bytes,
            self._gradient_bytes,
            seconds,
            launches(kind),
        )

    def _keep(self, tensor: Tensor) -> int:
        """Bytes that were not alive before."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return 0
        self._sizes[key] = size = storage.nbytes()
        self._activation_bytes += size
        weakref.finalize(storage, self._forget, key)
        return size

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key)
        if key in self._gradients:
            self._gradients.remove(key)
            self._gradient_bytes -= size
        else:
            self._activation_bytes -= size


def _bytes(tensor: Tensor) -> int:
    """Bytes of the elements a kernel goes through; an expanded tensor is read once."""
    touched = math.prod(
        size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step
    )
    return touched * tensor.element_size()


def _arithmetic(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> tuple[str, float]:
    """Kind of an operation and its floating-point operations, two per multiply-add."""
    packet = func._overloadpacket
    namespace, _, name = str(func.name()).split(".")[0].partition("::")
    backward = " backward" if name.endswith("_backward") else ""
    if "scaled_dot_product" in name:
        # Two products of N per query-key pair forward and five backward, half of them if causal.
        q, k = args[1:3] if backward else args[:2]
        causal = next((argument for argument in args if isinstance(argument, bool)), False)
        batch, heads, queries, size = q.shape
        pairs = batch * heads * queries * k.shape[2] * (0.5 if causal else 1.0)
        return "attention" + backward, 2 * pairs * size * (5 if backward else 2)
    if packet in flop_registry and (namespace != "aten" or "rnn_layer" in name):
        return "recurrence" + backward, float(flop_registry[packet](*args, **kwargs, out_val=out))
    if packet in flop_registry:
        shapes = [leaf.shape for leaf in args if isinstance(leaf, Tensor)]
        sizes = [size for shape in shapes for size in shape[-2:] if size > 1]
        kind = "thin matmul" if min(sizes, default=0) < THIN else "matmul"
        # Without the type of the result, which some products are given: not all formulas take it.
        given = [leaf for leaf in args if not isinstance(leaf, torch.dtype)]
        return kind, float(flop_registry[packet](*given, **kwargs, out_val=out))
    return (name if namespace == "crossover" else "memory"), 0.0
