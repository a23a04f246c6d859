"""A whole training step beside the one of `transformers`: `python benchmarks/training_step.py`.

The lab's 5m preset against RwkvForCausalLM and LlamaForCausalLM of equal shape: forward, backward
and AdamW, in turns. Then RWKV-4's tokens per second in one long sequence over those in many short
ones, and what the recurrences take of a training step at the width of the released 0.1b models.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.training_step:main")


from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, in_turns, parse, parser, publish, table
from conf.schema import OptimConf
from models.ops.wkv import wkv5, wkv6, wkv7
from models.rwkv4 import RWKV4, RWKV4Config
from models.rwkv5 import RWKV5, RWKV5Config
from models.rwkv6 import RWKV6, RWKV6Config
from models.rwkv7 import RWKV7, RWKV7Config
from models.transformer import Transformer, TransformerConfig
from training.loop.optim import build_optimizer

VOCAB, LAYERS, WIDTH, HEADS = 3072, 4, 256, 4
PEER: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
}  # fmt: skip
"""The shape of ours, in the words of `transformers`."""
Step = Callable[[Tensor], None]
OPERATORS: dict[str, Callable[..., Any]] = {
    "rwkv5": lambda *shape: RWKV5(RWKV5Config(*shape)),
    "rwkv6": lambda *shape: RWKV6(RWKV6Config(*shape)),
    "rwkv7": lambda *shape: RWKV7(RWKV7Config(*shape)),
}


def main() -> None:
    """Run the comparisons and print the tables."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--length", type=int, default=4096, help="context of the first two rows")
    arguments = parse(made)
    rounds = arguments.rounds
    publish(
        "Whole training steps",
        table(
            ("training step of the 5m preset", "tokens/s", "ratio (min to max)"),
            rate_rows(arguments.length, rounds),
        ),
        table(
            ("12 x 768, B=2, T=512", "training step", "its recurrences", "share (min to max)"),
            (operator_share(name, rounds) for name in OPERATORS),
        ),
        packages=("transformers",),
        arguments=arguments,
    )


def rate_rows(length: int, rounds: int) -> Iterator[Row]:
    """Ours over the peers' at one length, and RWKV-4's long sequence over short ones."""
    rwkv = our_step(small_rwkv())
    for name, ours, peer, build_peer in (
        ("rwkv4", rwkv, "RwkvForCausalLM", their_rwkv),
        ("transformer", our_step(small_transformer()), "LlamaForCausalLM", their_llama),
    ):
        try:
            theirs = build_peer()
        except ImportError:
            what = f"{name} over {peer}, T={length}"
            yield Row(what, ("not measured: transformers is missing",))
            continue
        tokens = some_tokens(1, length)
        yield rate_row(f"{name} over {peer}, B=1, T={length}", ours, tokens, theirs, tokens, rounds)
    long, short = some_tokens(1, 16384), some_tokens(64, 256)
    what = "rwkv4, B=1, T=16384 over B=64, T=256"
    yield rate_row(what, rwkv, long, rwkv, short, rounds, ".3f")


def rate_row(
    what: str, first: Step, given: Tensor, second: Step, taken: Tensor, rounds: int,
    form: str = ".2f",
) -> Row:  # fmt: skip
    """Tokens per second of the first step on `given`, over those of the second on `taken`."""
    seconds = in_turns({0: partial(first, given), 1: partial(second, taken)}, rounds)
    rates = [seconds[place].rates(x.numel()) for place, x in enumerate((given, taken))]
    figures = f"{rates[0].median:,.0f} and {rates[1].median:,.0f}"
    return Row(what, (figures, rates[0].over(rates[1]).spread(form)))


def operator_share(name: str, rounds: int) -> Row:
    """Seconds of a step, and of the forward and backward passes of its 12 operators."""
    heads, size, batch, length, layers = 12, 64, 2, 512, 12
    step = our_step(OPERATORS[name](VOCAB, layers, heads * size))
    r, k, v = (torch.randn(batch, length, heads, size, requires_grad=True) for _ in range(3))
    w = (-0.6 * torch.rand(batch, length, heads, size)).requires_grad_()
    kappa = torch.nn.functional.normalize(torch.randn_like(r), dim=-1)
    a, b = (-kappa).requires_grad_(), (kappa * torch.rand_like(kappa)).requires_grad_()
    u = torch.randn(heads, size, requires_grad=True)

    def operator() -> None:
        if name == "rwkv7":
            y, _ = wkv7(r, w, k, v, a, b)
        elif name == "rwkv6":
            y, _ = wkv6(r, w, k, v, u)
        else:
            y, _ = wkv5(r, w[0, 0], k, v, u)
        y.backward(torch.ones_like(y))

    tokens = some_tokens(batch, length)
    seconds = in_turns({"step": partial(step, tokens), "operator": operator}, rounds)
    whole, part = seconds["step"], seconds["operator"].scaled(layers)
    figures = f"{whole.median:.2f} s", f"{part.median:.3f} s", part.over(whole).spread(".1%")
    return Row(name, figures)


def some_tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


def small_rwkv() -> RWKV4:
    return RWKV4(RWKV4Config(VOCAB, LAYERS, WIDTH))


def small_transformer() -> Transformer:
    return Transformer(TransformerConfig(VOCAB, LAYERS, WIDTH, HEADS))


def our_step(model: Any) -> Step:
    optimizer = build_optimizer(model, OptimConf())
    return stepping(lambda tokens: model.train().loss(tokens, tokens)[0], optimizer)


def their_rwkv() -> Step:
    """Raises `ImportError` without `transformers`."""
    from transformers import RwkvConfig, RwkvForCausalLM

    return their_step(RwkvForCausalLM(RwkvConfig(**PEER, context_length=1 << 20, rescale_every=0)))


def their_llama() -> Step:
    """Raises `ImportError` without `transformers`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    wide: dict[str, Any] = {"intermediate_size": 3 * WIDTH, "num_attention_heads": HEADS}
    return their_step(
        LlamaForCausalLM(LlamaConfig(**PEER, **wide, max_position_embeddings=1 << 20))
    )


def their_step(model: Any) -> Step:
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
