"""A whole training step beside the one of `transformers`: `python benchmarks/training_step.py`.

The lab's 5m preset against RwkvForCausalLM and LlamaForCausalLM of equal shape: forward, backward
and AdamW, in alternating rounds of one process. Then RWKV-4's tokens per second in one long
sequence over those in many short ones, and what the recurrences take of a training step at the
width of the released 0.1b models. Prints tables in Markdown.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.training_step:main")


import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from conf.schema import OptimConf
from core.environment import commit, cpu_name
from models.ops.wkv import wkv5, wkv6, wkv7
from models.rwkv4 import RWKV4, RWKV4Config
from models.rwkv5 import RWKV5, RWKV5Config
from models.rwkv6 import RWKV6, RWKV6Config
from models.rwkv7 import RWKV7, RWKV7Config
from models.transformer import Transformer, TransformerConfig
from training.loop.optim import build_optimizer

VOCAB, LAYERS, WIDTH, HEADS = 3072, 4, 256, 4
Step = Callable[[Tensor], None]
OPERATORS: dict[str, Callable[..., Any]] = {
    "rwkv5": lambda *shape: RWKV5(RWKV5Config(*shape)),
    "rwkv6": lambda *shape: RWKV6(RWKV6Config(*shape)),
    "rwkv7": lambda *shape: RWKV7(RWKV7Config(*shape)),
}


def main() -> None:
    """Run the comparisons and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=4096, help="context of the first two rows")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {commit()}")
    print("\n| training step of the 5m preset | tokens/s | ratio (min to max) |\n|---|--:|--:|")
    length, rounds = arguments.length, arguments.rounds
    print(versus("rwkv4", ours_rwkv(), "RwkvForCausalLM", theirs_rwkv, length, rounds))
    print(versus("transformer", ours_llama(), "LlamaForCausalLM", theirs_llama, length, rounds))
    print(long_over_short(ours_rwkv(), rounds))
    print("\n| 12 x 768, B=2, T=512 | training step | its recurrences | share (min to max) |")
    print("|---|--:|--:|--:|")
    for name in OPERATORS:
        print(operator_share(name, rounds))


def versus(
    name: str, ours: Step, peer: str, build_peer: Callable[[], Step], length: int, rounds: int
) -> str:
    """One row: tokens per second of ours, and how many times those of the peer."""
    try:
        theirs = build_peer()
    except ImportError:
        return f"| {name} over {peer}, T={length} | not measured: transformers is missing | |"
    tokens = some_tokens(1, length)
    rates = alternate([(ours, tokens), (theirs, tokens)], rounds)
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    figures = f"{median(rates[0]):,.0f} and {median(rates[1]):,.0f}"
    return (
        f"| {name} over {peer}, B=1, T={length} | {figures} | "
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def long_over_short(ours: Step, rounds: int) -> str:
    """One row: B=1, T=16384 over B=64, T=256, the same number of tokens."""
    rates = alternate([(ours, some_tokens(1, 16384)), (ours, some_tokens(64, 256))], rounds)
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    return (
        f"| rwkv4, B=1, T=16384 over B=64, T=256 | {median(rates[0]):,.0f} and "
        f"{median(rates[1]):,.0f} | {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


def operator_share(name: str, rounds: int) -> str:
    """One row: seconds of a step, and of the forward and backward passes of its 12 operators."""
    heads, size, batch, length, layers = 12, 64, 2, 512, 12
    model = OPERATORS[name](VOCAB, layers, heads * size)
    optimizer = build_optimizer(model, OptimConf())
    step = stepping(lambda tokens: model.loss(tokens, tokens)[0], optimizer)
    r, k, v = (torch.randn(batch, length, heads, size, requires_grad=True) for _ in range(3))
    w = (-0.6 * torch.rand(batch, length, heads, size)).requires_grad_()
    kappa = torch.nn.functional.normalize(torch.randn_like(r), dim=-1)
    a, b = (-kappa).requires_grad_(), (kappa * torch.rand_like(kappa)).requires_grad_()
    u = torch.randn(heads, size, requires_grad=True)

    def operator(_: Tensor) -> None:
        if name == "rwkv7":
            y, _ = wkv7(r, w, k, v, a, b)
        elif name == "rwkv6":
            y, _ = wkv6(r, w, k, v, u)
        else:
            y, _ = wkv5(r, w[0, 0], k, v, u)
        y.backward(torch.ones_like(y))

    tokens = some_tokens(batch, length)
    rates = alternate([(step, tokens), (operator, tokens)], rounds)
    whole, part = ([tokens.numel() / rate for rate in pair] for pair in rates)
    shares = [layers * p / w for w, p in zip(whole, part, strict=True)]
    return (
        f"| {name} | {median(whole):.2f} s | {layers * median(part):.3f} s | "
        f"{median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}) |"
    )


def alternate(cases: list[tuple[Step, Tensor]], rounds: int) -> list[list[float]]:
    """Tokens per second of every case and round, after one untimed round."""
    rates: list[list[float]] = [[] for _ in cases]
    for number in range(rounds + 1):
        for place, (step, tokens) in enumerate(cases):
            began = time.perf_counter()
            step(tokens)
            if number:
                rates[place].append(tokens.numel() / (time.perf_counter() - began))
    return rates


def some_tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


def ours_rwkv() -> Step:
    model = RWKV4(RWKV4Config(VOCAB, LAYERS, WIDTH))
    optimizer = build_optimizer(model, OptimConf())
    return stepping(lambda tokens: model.loss(tokens, tokens)[0], optimizer)


def ours_llama() -> Step:
    model = Transformer(TransformerConfig(VOCAB, LAYERS, WIDTH, HEADS))
    optimizer = build_optimizer(model, OptimConf())
    return stepping(lambda tokens: model.loss(tokens, tokens)[0], optimizer)


def theirs_rwkv() -> Step:
    """Raises `ImportError` without `transformers`."""
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        vocab_size=VOCAB,
        context_length=1 << 20,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        rescale_every=0,
    )
    return peer_step(RwkvForCausalLM(config))


def theirs_llama() -> Step:
    """Raises `ImportError` without `transformers`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=1 << 20,
    )
    return peer_step(LlamaForCausalLM(config))


def peer_step(model: Any) -> Step:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    return stepping(lambda tokens: model(input_ids=tokens, labels=tokens).loss, optimizer)


def stepping(loss: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer) -> Step:
    """Take one step: forward, backward, update."""

    def step(tokens: Tensor) -> None:
        loss(tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
