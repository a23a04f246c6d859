"""Decoding beside the official `rwkv` package: `python benchmarks/decode.py`.

The released 0.1b shapes (12 layers, width 768) of RWKV-4 and RWKV-7 with random weights, fp32 on
the CPU, one token at a time. The package runs in a child process, because it chooses its version
when it is imported; ours and theirs take turns, the other one waiting. Beside tokens per second
stands the bandwidth they stand for: every weight but the embedding is read once per token.

A second table has RWKV-7 in fp32, bf16 and int8, one and more sequences at a time. The package
decodes one sequence alone.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.decode:main")


import copy
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import (
    Measure,
    Row,
    interleave,
    parse,
    parser,
    publish,
    table,
    timed,
    version,
)
from benchmarks.processes import Child
from models.decoding.int8 import round_to_int8
from models.meta import build_meta
from models.registry import ModelSpec

LAYERS, WIDTH = 12, 768
VOCAB = {"rwkv4": 50277, "rwkv7": 65536}
TARGETS = {"rwkv4": "models.rwkv4.RWKV4", "rwkv7": "models.rwkv7.RWKV7"}
COLUMNS = ("decoding, B=1, fp32", "ours, tokens/s", "GB/s", "rwkv package", "ratio (min to max)")
BATCHES = (1, 8, 32)
PRECISIONS = ("fp32", "bf16", "int8")
TOGETHER = ("rwkv7, tokens/s", *(f"B={batch}" for batch in BATCHES))

CHILD = """
import os, sys, time
version, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ.update(RWKV_JIT_ON="1", RWKV_CUDA_ON="0", RWKV_V7_ON="1" if version == "rwkv7" else "0")
answers, sys.stdout = sys.stdout, open(os.devnull, "w")
import torch
torch.set_num_threads(threads)
from rwkv.model import RWKV
model = RWKV(model=path, strategy="cpu fp32")
logits, state = model.forward([1, 2, 3], None)
print("ready", file=answers, flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        logits, state = model.forward([5], state)
    print(time.perf_counter() - began, file=answers, flush=True)
"""


def main() -> None:
    """Time both versions and print the table."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--tokens", type=int, default=20, help="decoded per round")
    arguments = parse(made)
    if version("rwkv") is None:
        sys.exit("the rwkv package is not installed: pip install -e '.[dev]'")
    rows = (row(name, arguments.tokens, arguments.rounds) for name in TARGETS)
    title = "Decoding beside the package rwkv"
    more = together(arguments.tokens, arguments.rounds)
    tables = (table(COLUMNS, rows), table((*TOGETHER, "to B=1", "B=1 to fp32"), more))
    publish(title, *tables, packages=("rwkv",), arguments=arguments)


def row(name: str, tokens: int, rounds: int) -> Row:
    """Tokens per second of ours and theirs, in turns after an untimed round."""
    model = random_model(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        torch.save(model.state_dict(), path.with_suffix(".pth"))
        argument = str(path) if name == "rwkv7" else str(path.with_suffix(".pth"))
        with Child(["-c", CHILD, name, argument, str(torch.get_num_threads())]) as package:
            package.answer()  # it has loaded the weights
            pieces: dict[str, Measure] = {
                "ours": partial(decode, model, tokens),
                "theirs": lambda: package.seconds(str(tokens)),
            }
            seconds = interleave(pieces, rounds)
    ours, theirs = (seconds[which].rates(tokens) for which in pieces)
    weights = sum(p.numel() * 4 for p in model.parameters()) - model.emb.weight.numel() * 4
    return Row(
        f"{name}, {LAYERS} x {WIDTH}, V={VOCAB[name]}",
        (
            f"{ours.median:.1f}",
            f"{ours.median * weights / 1e9:.1f}",
            f"{theirs.median:.1f}",
            ours.over(theirs).spread(),
        ),
    )


def together(tokens: int, rounds: int) -> Iterator[Row]:
    """Tokens per second in each precision, in turns; with ratios of the largest batch to one
    sequence, and of one sequence to one in fp32."""
    model = random_model("rwkv7")
    models = {"fp32": model, "bf16": copy.deepcopy(model).bfloat16(), "int8": copy.deepcopy(model)}
    round_to_int8(models["int8"])
    steps = {batch: max(2, tokens // batch) for batch in BATCHES}
    pieces = {
        (precision, batch): partial(decode, models[precision], steps[batch], batch)
        for precision in PRECISIONS
        for batch in BATCHES
    }
    seconds = interleave(pieces, rounds)
    rates = {key: each.rates(steps[key[1]] * key[1]) for key, each in seconds.items()}
    for precision in PRECISIONS:
        ours = [rates[precision, batch] for batch in BATCHES]
        yield Row(
            precision,
            (
                *(f"{rate.median:.1f}" for rate in ours),
                ours[-1].over(ours[0]).spread(),
                ours[0].over(rates["fp32", 1]).spread(),
            ),
        )


def random_model(name: str) -> Any:
    """Official shapes; what the values are does not matter to the time they take."""
    config = {"vocab_size": VOCAB[name], "n_layer": LAYERS, "n_embd": WIDTH}
    model = build_meta(ModelSpec(name, "0.1b", TARGETS[name], config))
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


@torch.no_grad()
def decode(model: Any, tokens: int, batch: int = 1) -> float:
    """Seconds for `tokens` single steps of `batch` sequences from an early position."""
    _, state = model(torch.tensor([[1, 2, 3]]).expand(batch, 3), model.init_state(batch))
    token = torch.full((batch, 1), 5)

    def steps() -> None:
        nonlocal state
        for _ in range(tokens):
            _, state = model(token, state)

    return timed(steps)()
