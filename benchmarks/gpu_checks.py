"""The checks of `benchmarks/gpu.py`: `python -m benchmarks.gpu_checks NAME DEVICE PEERS`.

Each prints a line of JSON for every row, as soon as it knows it. On a CPU sizes are tiny.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import elementwise_gpu
from benchmarks.harness import ROOT, Samples, timed_on_gpu
from benchmarks.operators import ABOVE, largest_error, passes, results
from core.peak_rate import highest_rate
from models.contract import TRAINING_FACTOR
from models.decoding.captured import Decoder
from models.layers.compiled import NONE, chosen, compile_blocks, in_use
from models.ops import backends
from models.ops.attention import attend
from models.ops.attention_choice import TRIED
from models.ops.wkv import wkv4, wkv6, wkv7
from models.registry import ModelSpec, build

PEERS = {
    "fla": "checkout of flash-linear-attention",
    "rwkv-lm": "checkout of RWKV-LM",
    "flash-attn": "folder in which flash_attn is installed",
}
CLASSES = {
    "rwkv7": "RWKV7", "transformer": "Transformer", "rwkv4": "RWKV4", "rwkv6": "RWKV6",
    "rwkv5": "RWKV5", "gpt": "GPT", "lstm": "LSTM", "gru": "GRU",
}  # fmt: skip
SIZES = {"0.1b": (12, 768), "0.4b": (24, 1024), "1.5b": (24, 2048)}
"""Layers and channels."""
TINY = {"tiny": (2, 64)}
OPERATORS: dict[int, Callable[..., Any]] = {4: wkv4, 6: wkv6, 7: wkv7}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
REPEATS = 5


def say(what: str, measured: str, **more: Any) -> None:
    """A row."""
    print(json.dumps({"what": what, "measured": measured, **more}), flush=True)


def inputs(version: int, B: int, T: int, H: int, device: str) -> list[Tensor]:
    """Operands that a layer with H heads of 64 channels gives its operator, in fp32."""
    if version == 4:
        k, v = (torch.randn(B, T, 64 * H, device=device) for _ in range(2))
        w = -torch.rand(64 * H, device=device) - 1e-3
        return [w, torch.randn(64 * H, device=device), k, v]
    r, k, v, a = (torch.randn(B, T, H, 64, device=device) for _ in range(4))
    w = -0.6 * torch.rand(B, T, H, 64, device=device)
    if version == 6:
        return [r, w, k / 8, v, torch.randn(H, 64, device=device)]
    a = torch.nn.functional.normalize(a, dim=-1)
    return [r, w, k / 8, v, -a, a / 2]


def lower(version: int, given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Operands in `dtype` where a layer computes them in it."""
    wide = {4: (0, 1), 6: (1, 4), 7: (1,)}[version]
    return [x if place in wide else x.to(dtype) for place, x in enumerate(given)]


def machine(device: str, peers: dict[str, str]) -> None:
    """The device, and which kernels can be built for it."""
    say("torch", torch.__version__)
    say("device", torch.cuda.get_device_name() if device == "cuda" else "cpu")
    for name, state in backends.report().items():
        say(f"back end {name}", state.splitlines()[-1])
    say("compiler of blocks", chosen("auto", device == "cuda"))


def right(version: int) -> Callable[[str, dict[str, str]], None]:
    """Results and gradients of a kernel at odd shapes beside the reference in fp64."""

    def check(device: str, peers: dict[str, str]) -> None:
        shapes = ((1, 1, 1), (2, 300, 3), (1, 2049, 2)) if device == "cuda" else ((1, 9, 1),)
        for B, T, H in shapes:
            given = inputs(version, B, T, H, "cpu")
            for dtype, most in TOLERANCES.items():
                rounded = [x.to(torch.float64) for x in lower(version, given, dtype)]
                weights = [torch.randn_like(x) for x in _both(version, rounded, "reference")]
                true = results(
                    lambda *x: _both(version, x, "reference"), rounded, weights, None, "cpu"
                )
                ours = results(
                    lambda *x: _both(version, x, "auto"),
                    lower(version, given, dtype), weights, None, device,
                )  # fmt: skip
                worst = largest_error(ours, true)[0]
                name = str(dtype).removeprefix("torch.")
                verdict = "right" if worst <= most else f"WRONG, above {most:g}"
                say(f"wkv{version} {name} B={B} T={T} H={H}", f"error {worst:.1e}: {verdict}")

    return check


def _both(version: int, given: Any, backend: str) -> tuple[Tensor, Tensor]:
    return OPERATORS[version](*given, backend=backend)


def right_elementwise(device: str, peers: dict[str, str]) -> None:
    """Results and gradients of every elementwise formula beside its text in fp64."""
    if problem := backends.why_not("pointwise", device):
        say("elementwise formulas", f"not measured: {problem.splitlines()[-1]}")
        return
    shapes = elementwise_gpu.CHECKED if device == "cuda" else ((9, 128),)
    for row in elementwise_gpu.error_rows(shapes, device):
        error, limit = row.figures
        verdict = f"WRONG, not {limit}" if ABOVE in error else "right"
        say(row.what, f"{error.removesuffix(ABOVE)}: {verdict}")


def times_elementwise(device: str, peers: dict[str, str]) -> None:
    """Every elementwise formula beside eager torch and `torch.compile`."""
    if device == "cpu":
        say("elementwise formulas", "no times on a CPU: benchmarks/elementwise.py has them")
        return
    if problem := backends.why_not("pointwise", device):
        say("elementwise formulas", f"not measured: {problem.splitlines()[-1]}")
        return
    for row in elementwise_gpu.time_rows(REPEATS):
        say(row.what, row.figures[0])


def seconds(work: Callable[[], Any], device: str) -> tuple[float, str]:
    """Time of a call, and how it was clocked: on a GPU as a captured graph, free of host time."""
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start, "one call"
    replay, how = work, "launches"
    stream = torch.cuda.Stream()
    try:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        replay, how = graph.replay, "a graph"
    except RuntimeError as error:
        print(f"no graph: {error}", flush=True)
    measure = timed_on_gpu(replay)
    measure()
    return Samples(tuple(measure() for _ in range(REPEATS))).median, how


def times(version: int) -> Callable[[str, dict[str, str]], None]:
    """A kernel's passes at two shapes, bf16, and the bandwidth of copying beside them."""

    def check(device: str, peers: dict[str, str]) -> None:
        on_gpu = device == "cuda"
        if on_gpu:
            source = torch.empty(1 << 29, dtype=torch.bfloat16, device=device)
            taken, _ = seconds(source.clone, device)
            say("copy bandwidth", f"{2 * source.nbytes / taken / 1e12:.2f} TB/s")
            del source
        for B, T, H in ((8, 4096, 64), (1, 65536, 12)) if on_gpu else ((1, 64, 2),):
            leaves = lower(version, inputs(version, B, T, H, device), torch.bfloat16)
            leaves = [x.requires_grad_() for x in leaves]
            for name, backward in (("forward", False), ("forward + backward", True)):
                work = passes(lambda *x: _both(version, x, "auto")[0], leaves, backward)
                taken, how = seconds(work, device)
                say(f"wkv{version} {name} B={B} T={T} H={H}", f"{1e3 * taken:.3f} ms, {how}")

    return check


def spec(name: str, layers: int, width: int, size: str, vocab: int) -> ModelSpec:
    """A model of these sizes, without a file of configuration."""
    config: dict[str, Any] = {"vocab_size": vocab, "n_layer": layers, "n_embd": width}
    if name in ("transformer", "gpt"):
        config["n_head"] = width // 64
    if name == "gpt":
        config["n_positions"] = 4096
    return ModelSpec(name, size, f"models.{name}.{CLASSES[name]}", config)


def step(name: str) -> Callable[[str, dict[str, str]], None]:
    """Training steps without an optimizer at three sizes, bf16-mixed, eager and compiled."""

    def check(device: str, peers: dict[str, str]) -> None:
        on_gpu = device == "cuda"
        batch, length, vocab = (8, 4096, 65536) if on_gpu else (1, 16, 97)
        peak = highest_rate(device, torch.bfloat16) if on_gpu else None
        compilers = (NONE, chosen("auto", True)) if on_gpu else (NONE, "eager")
        for size, (layers, width) in (SIZES if on_gpu else TINY).items():
            for compiler in dict.fromkeys(compilers):
                model: Any = build(spec(name, layers, width, size, vocab))
                model.to(device)
                compile_blocks(model, compiler)
                tokens = torch.randint(vocab, (batch, length + 1), device=device)
                taken = _step_seconds(model, tokens, device)
                flops = TRAINING_FACTOR * model.flops(batch, length)
                words = [f"{1e3 * taken:.1f} ms", f"{batch * length / taken:,.0f} tokens/s"]
                if peak:
                    words.append(f"{flops / taken / peak:.0%} of the highest rate")
                    words.append(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
                used = {**model.backends(), **in_use(model)}
                say(f"step {name} {size} {used['compile']}", ", ".join(words), backends=used)
                del model
                if on_gpu:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()

    return check


def _step_seconds(model: Any, tokens: Tensor, device: str) -> float:
    def once() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        model.zero_grad(set_to_none=True)

    taken = []
    for _ in range(3 + REPEATS if device == "cuda" else 2):
        start = time.perf_counter()
        once()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return Samples(tuple(taken[3:] or taken[1:])).median


def attention(device: str, peers: dict[str, str]) -> None:
    """Every back end, forward and backward, at three lengths."""
    for length in (4096, 16384, 65536) if device == "cuda" else (32,):
        shape = (max(1, 16384 // length), 16, length, 64)
        q = torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
        for kernel in (*TRIED, "auto") if device == "cuda" else ("auto",):
            work = passes(lambda q, kernel=kernel: attend(q, q, q, kernel), [q], True)
            try:
                taken, how = seconds(work, device)
                measured = f"{1e3 * taken:.2f} ms, {how}"
            except RuntimeError as error:
                measured = f"not measured: {str(error).splitlines()[0][:120]}"
            say(f"attention {kernel} B={shape[0]} T={length}", measured)


def decode(name: str) -> Callable[[str, dict[str, str]], None]:
    """Single tokens of a 0.4b model in bf16: by a graph and call by call, for 1 and 64 rows."""

    def check(device: str, peers: dict[str, str]) -> None:
        on_gpu = device == "cuda"
        size, (layers, width) = ("0.4b", SIZES["0.4b"]) if on_gpu else ("tiny", TINY["tiny"])
        vocab = 65536 if on_gpu else 97
        model: Any = build(spec(name, layers, width, size, vocab))
        model.to(device, torch.bfloat16).eval()
        weights = sum(p.nbytes for p in model.parameters()) - model.emb.weight.nbytes
        with torch.no_grad():
            for rows in (1, 64) if on_gpu else (1, 2):
                token = torch.zeros(rows, 1, dtype=torch.int64, device=device)
                for expected in (64, 1):  # one token pays for no capture
                    decoder = Decoder(model, model.init_state(rows, 256), expected)
                    taken = _token_seconds(decoder, token, device)
                    rate = weights / taken / 1e12
                    words = f"{1e6 * taken:.0f} us per token, {rate:.3f} TB/s of weights"
                    say(f"decode {name} {size} rows={rows} {decoder.how}", words)

    return check


def _token_seconds(decoder: Decoder, token: Tensor, device: str) -> float:
    for _ in range(4):
        decoder(token)
    if device == "cuda":
        torch.cuda.synchronize()
    start, count = time.perf_counter(), 64 if device == "cuda" else 2
    for _ in range(count):
        decoder(token)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def beside(device: str, peers: dict[str, str]) -> None:
    """The kernels of others at the shapes of `times`, where their folders are given."""
    for name, module, operator in (
        ("fla", "fla.ops.rwkv7", "chunk_rwkv7"),
        ("flash-attn", "flash_attn", "flash_attn_func"),
    ):
        if not peers.get(name):
            say(f"peer {name}", f"not measured: no --{name}")
            continue
        sys.path.insert(0, peers[name])
        try:
            function = getattr(importlib.import_module(module), operator)
            work = _peer(name, function, device)
            taken, how = seconds(work, device)
            say(f"peer {name} {operator}, forward + backward", f"{1e3 * taken:.2f} ms, {how}")
        except Exception as error:  # others' code may fail in any way
            say(f"peer {name}", f"not measured: {type(error).__name__}: {str(error)[:150]}")
    if not peers.get("rwkv-lm"):
        say("peer rwkv-lm", "not measured: no --rwkv-lm")
        return
    command = [sys.executable, "-m", "benchmarks.kernels", "--rounds", "3"]
    official = Path(peers["rwkv-lm"])
    done = subprocess.run([*command, "--official", official], cwd=ROOT, text=True,
                          capture_output=True)  # fmt: skip
    for line in done.stdout.splitlines():
        if "official" in line:
            say("peer rwkv-lm", " ".join(line.strip("| ").split("|")))


def _peer(name: str, function: Callable[..., Any], device: str) -> Callable[[], Any]:
    if name == "fla":
        given = lower(7, inputs(7, 8, 4096, 64, device), torch.bfloat16)
        leaves = [x.bfloat16().requires_grad_() for x in given]
        return passes(lambda *x: function(*x)[0], leaves, True)
    q = torch.randn(1, 16384, 16, 64, device=device, dtype=torch.bfloat16).requires_grad_()
    return passes(lambda q: function(q, q, q, causal=True), [q], True)


def crossover(device: str, peers: dict[str, str]) -> None:
    """From which length rwkv7 trains faster than the Transformer, by the ordinary sweep."""
    if importlib.util.find_spec("hydra") is None:
        say("crossover", "not measured: scripts/probe.py needs the packages of pyproject.toml")
        return
    on_gpu = device == "cuda"
    lengths = "[512,1024,2048,4096,8192,16384]" if on_gpu else "[16,32]"
    size = "0.4b" if on_gpu else "tiny"
    words = [
        "-m", "model=rwkv7,transformer", f"model.size={size}", f"lengths={lengths}",
        "probes=[train]", "sweeps=[fixed_tokens]", f"fixed_tokens={16384 if on_gpu else 32}",
        f"accelerator={'gpu' if on_gpu else 'cpu'}", "unmatched=true", "repeats=3",
        "group=lease", "wandb.mode=disabled", "remeasure=0",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "scripts/probe.py", *words], cwd=ROOT)
    say("crossover sweep", f"status {done.returncode}, rows in runs/lease/probes.jsonl")


CHECKS: dict[str, Callable[[str, dict[str, str]], None]] = {
    "machine": machine,
    **{f"right{version}": right(version) for version in (7, 4, 6)},
    "right_elementwise": right_elementwise,
    **{f"times{version}": times(version) for version in (7, 4, 6)},
    **{f"step_{name}": step(name) for name in ("rwkv7", "transformer")},
    "decode_rwkv7": decode("rwkv7"),
    "decode_transformer": decode("transformer"),
    "attention": attention,
    "times_elementwise": times_elementwise,
    **{f"step_{name}": step(name) for name in CLASSES if name not in ("rwkv7", "transformer")},
    "beside": beside,
    "crossover": crossover,
}
"""In the order in which they are run."""
LIMITS = {
    name: 60.0 if name.startswith(("right", "times", "decode")) else 90.0 for name in CHECKS
} | {"machine": 120.0, "right_elementwise": 120.0, "times_elementwise": 120.0, "crossover": 240.0}
"""Seconds that each may take."""


def main() -> None:
    name, device, peers = sys.argv[1:]
    torch.manual_seed(0)
    if device == "cuda" and not torch.cuda.is_available():
        say(name, "not measured: PyTorch sees no CUDA GPU here")
        return
    CHECKS[name](device, json.loads(peers))


if __name__ == "__main__":
    main()
