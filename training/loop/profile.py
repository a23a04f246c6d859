"""Where the time and the memory of a few optimizer steps go: a trace, and a summary in words."""

from __future__ import annotations

import gzip
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from lightning.pytorch.profilers import Profiler
from torch import nn
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from core.files import replacing, write_text
from core.units import size_bytes
from training.loop.plugins import window

PHASES = {
    "train_dataloader_next": "loading",
    "batch_to_device": "loading",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "save_checkpoint": "saving",
    "validation_step": "validation",
}
"""Lightning's names of what it does, as far as they are phases of a step."""
REST = "everything else"
DEAREST = 5
WORDS = {
    r"aten::(mm|addmm|bmm|baddbmm|matmul|linear)": "matrix products",
    r".*(attention|flash).*": "attention",
    r"crossover::wkv\w*": "the WKV recurrence",
    r"crossover::\w+": "fused elementwise formulas",
    r"aten::(_fused_adamw?_|_foreach_\w+)": "the optimizer's update and the gradient's norm",
    r"aten::(copy_|_to_copy|clone|contiguous|cat|stack|slice_backward)": "copies",
    r"aten::(native_layer_norm\w*|_fused_rms_norm\w*)": "normalisation of layers",
    r"aten::(_?log_softmax\w*|_?softmax\w*|logsumexp|nll_loss\w*|exp_)": "softmax and loss",
    r"aten::(embedding\w*|index\w*|gather|scatter\w*)": "looking rows up",
    r"aten::(sum|mean|norm|linalg_vector_norm|max|amax|argmax)": "sums and maxima",
    r"aten::(zero_|fill_|zeros\w*|empty\w*|new_\w+)": "allocating and filling",
    r"aten::(mul|add|sub|div|pow|sigmoid|tanh|relu|silu|gelu|exp|neg|rsqrt|sqrt|where|square|lerp)"
    r"\w*": "elementwise arithmetic",
}
"""Operations in words, by patterns of PyTorch's names; the first that fits counts."""


class StepProfiler(Profiler):
    """Lightning tells it what begins and ends; between `open` and `close` it keeps account."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        """Time of each phase, without the phases inside it."""
        self._torch: Any = None
        self._stack: list[tuple[str, Any]] = []
        self._mark = 0.0

    def start(self, action_name: str) -> None:
        if self._torch is not None and (phase := _phase(action_name)):
            self._charge()
            mark = record_function(phase)
            mark.__enter__()
            self._stack.append((phase, mark))

    def stop(self, action_name: str) -> None:
        if self._torch is not None and self._stack and _phase(action_name) == self._stack[-1][0]:
            self._charge()
            self._stack.pop()[1].__exit__(None, None, None)

    @property
    def phase(self) -> str:
        """What the training is doing."""
        return self._stack[-1][0] if self._stack else REST

    def open(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._torch = torch_profile(activities=activities, profile_memory=True)
        self._torch.start()
        self._mark = time.perf_counter()

    def close(self) -> Any:
        """What PyTorch's profiler has recorded."""
        self._charge()
        recorded, self._torch = self._torch, None
        recorded.stop()
        return recorded

    def _charge(self) -> None:
        if torch.cuda.is_available():  # what was started belongs to the phase that started it
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self.phase] += now - self._mark
        self._mark = now


class ProfileSteps(lightning.Callback):
    """Profiles the optimizer steps of `training.profile` on rank 0; stands after the callback that
    saves, whose time counts.

    Writes `profile-FIRST-LAST.json.gz`, which Perfetto and chrome://tracing read, and a summary
    beside it, and shows the summary.
    """

    def __init__(self, steps: str, folder: Path, show: Callable[[str], object] = print) -> None:
        self._first, self._last = window(steps)
        self._folder, self._show = folder, show
        self.profiler = StepProfiler()
        self._handles: list[Any] = []
        self._before = 0
        self._open = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._begin(trainer, pl_module)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        if self._open and trainer.global_step >= self._last:
            self._finish(trainer, pl_module)
        else:
            self._begin(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self._open:  # it has ended early
            self._finish(trainer, pl_module)

    def _begin(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        step = trainer.global_step
        if self._open or not trainer.is_global_zero or not self._first - 1 <= step < self._last:
            return
        self._open, self._before = True, step
        for name, layer in layers(pl_module.model).items():
            self._handles += self._mark(name, layer)
        self.profiler.open()

    def _mark(self, name: str, layer: nn.Module) -> list[Any]:
        """Have the layer's forward passes marked; those of a recomputation are not."""
        marks: list[Any] = []

        def enter(*_: Any) -> None:
            marks.append(record_function(name) if self.profiler.phase == "forward" else None)
            if marks[-1] is not None:
                marks[-1].__enter__()

        def leave(*_: Any) -> None:
            if marks and (mark := marks.pop()) is not None:
                mark.__exit__(None, None, None)

        return [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    def _finish(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        recorded = self.profiler.close()
        self._open = False
        while self._handles:
            self._handles.pop().remove()
        steps = trainer.global_step - self._before
        name = f"profile-{self._before + 1}-{trainer.global_step}"
        trace = self._folder / f"{name}.json.gz"
        with TemporaryDirectory() as scratch, replacing(trace) as aside:
            plain = Path(scratch) / "trace.json"
            recorded.export_chrome_trace(str(plain))
            with plain.open("rb") as source, gzip.open(aside, "wb") as target:
                shutil.copyfileobj(source, target)
        passes = steps * trainer.accumulate_grad_batches
        text = summary(
            f"optimizer steps {self._before + 1} to {trainer.global_step}",
            self.profiler.seconds,
            recorded.key_averages(),
            memory_by_layer(pl_module.model, trainer.optimizers, recorded.key_averages(), passes),
        )
        write_text(self._folder / f"{name}.txt", text + "\n")
        self._show(f"{text}\ntrace for ui.perfetto.dev: {trace}")


def layers(model: Any) -> dict[str, nn.Module]:
    """The parts of a model that a table names, in their order."""
    blocks = {f"layer {number}": block for number, block in enumerate(model.blocks)}
    return {"embedding": model.emb, **blocks}


def summary(title: str, seconds: Mapping[str, float], averages: Any, memory: list[str]) -> str:
    """Shares of the phases, the dearest operations in words, and the memory of each layer."""
    total = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda pair: -pair[1])
    shares = ", ".join(f"{phase} {100 * part / total:.1f} %" for phase, part in ranked)
    lines = [f"{title}: {total:.3f} s", f"  {shares}"]
    spent, names = _by_words(averages)
    whole = sum(spent.values()) or 1.0
    lines.append(f"  the {DEAREST} dearest operations, of the time in all operations:")
    for words in sorted(spent, key=lambda each: -spent[each])[:DEAREST]:
        shown = ", ".join(sorted(names[words], key=lambda each: -names[words][each])[:3])
        lines.append(f"    {100 * spent[words] / whole:5.1f} %  {words} ({shown})")
    return "\n".join([*lines, *memory])


def memory_by_layer(model: Any, optimizers: Any, averages: Any, passes: int) -> list[str]:
    """Lines of a table: bytes of weights, gradients and the optimizer's state of each layer, and
    what a forward pass leaves for the backward pass, a mean over `passes`.

    Counts what lies with this process. A layer whose forward pass is recomputed leaves its input.
    """
    kept = {
        each.key: float(each.device_memory_usage or each.cpu_memory_usage) / passes
        for each in averages
        if each.count
    }
    state: dict[Any, Any] = {}
    for optimizer in optimizers:
        state |= optimizer.state
    named = layers(model)
    inside = {id(one) for layer in named.values() for one in layer.parameters()}
    outside = [one for one in model.parameters() if id(one) not in inside]
    rows = [(name, [*layer.parameters()]) for name, layer in named.items()]
    lines = [
        f"  {'memory by layer':<16}{'weights':>12}{'gradients':>12}{'optimizer':>12}{'kept':>12}"
    ]
    for name, parameters in [*rows, ("head and norm", outside)]:
        weights = sum(map(_size, parameters))
        moments = sum(_state_bytes(state.get(parameter)) for parameter in parameters)
        gradients = sum(_size(each) for each in parameters if each.requires_grad)
        activations = size_bytes(max(kept[name], 0.0)) if name in kept else ""
        figures = [*map(size_bytes, (weights, gradients, moments)), activations]
        lines.append(f"  {name:<16}" + "".join(f"{figure:>12}" for figure in figures))
    return lines


def _phase(action: str) -> str | None:
    if action.startswith("[Callback]"):
        return "samples" if action == "[Callback]Sampler.on_train_batch_end" else None
    return PHASES.get(action.rpartition(".")[2])


def _by_words(averages: Any) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Time in operations themselves, as a whole and by PyTorch's names, by words."""
    on_device = any(each.self_device_time_total for each in averages)
    spent: dict[str, float] = defaultdict(float)
    names: dict[str, dict[str, float]] = defaultdict(dict)
    for each in averages:
        if "::" not in each.key or each.key.startswith(("autograd::", "torch::", "Optimizer")):
            continue
        cost = each.self_device_time_total if on_device else each.self_cpu_time_total
        fits = (words for pattern, words in WORDS.items() if re.fullmatch(pattern, each.key))
        words = next(fits, each.key)
        spent[words] += cost
        names[words][each.key] = cost
    return spent, names


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _state_bytes(state: Any) -> int:
    values = state.values() if isinstance(state, dict) else ()
    return sum(_size(value) for value in values if isinstance(value, torch.Tensor))
