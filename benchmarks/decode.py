"""Decoding beside the official `rwkv` package: `python benchmarks/decode.py`.

The released 0.1b shapes (12 layers, width 768) of RWKV-4 and RWKV-7 with random weights, fp32 on
the CPU, one token at a time. The package runs in a child process, because it chooses its version
when it is imported; ours and theirs take turns, the other one waiting. Beside tokens per second
stands the bandwidth they stand for: every weight but the embedding is read once per token.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.decode:main")


import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import IO, Any

import torch

from core.environment import commit, cpu_name
from models.meta import build_meta
from models.registry import ModelSpec

LAYERS, WIDTH = 12, 768
VOCAB = {"rwkv4": 50277, "rwkv7": 65536}
TARGETS = {"rwkv4": "models.rwkv4.RWKV4", "rwkv7": "models.rwkv7.RWKV7"}

CHILD = """
import os, sys, time
version, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ.update(RWKV_JIT_ON="1", RWKV_CUDA_ON="0", RWKV_V7_ON="1" if version == "rwkv7" else "0")
answers, sys.stdout = sys.stdout, sys.stderr
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=20, help="decoded per round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{cpu_name()}, {threads} threads, torch {torch.__version__}, {commit()}")
    try:
        print(f"rwkv {importlib.metadata.version('rwkv')}")
    except importlib.metadata.PackageNotFoundError:
        sys.exit("the rwkv package is not installed: pip install -e '.[dev]'")
    print("\n| decoding, B=1, fp32 | ours, tokens/s | GB/s | rwkv package | ratio (min to max) |")
    print("|---|--:|--:|--:|--:|")
    for name in TARGETS:
        print(row(name, arguments.tokens, arguments.rounds))


def row(name: str, tokens: int, rounds: int) -> str:
    """Tokens per second of ours and theirs, in alternating rounds after an untimed one."""
    model = random_model(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        torch.save(model.state_dict(), path.with_suffix(".pth"))
        argument = str(path) if name == "rwkv7" else str(path.with_suffix(".pth"))
        with Peer(name, argument) as peer:
            ours, theirs = [], []
            for number in range(rounds + 1):
                pair = decode(model, tokens), peer.decode(tokens)
                if number:
                    ours.append(tokens / pair[0])
                    theirs.append(tokens / pair[1])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    weights = sum(p.numel() * 4 for p in model.parameters()) - model.emb.weight.numel() * 4
    return (
        f"| {name}, {LAYERS} x {WIDTH}, V={VOCAB[name]} | {median(ours):.1f} | "
        f"{median(ours) * weights / 1e9:.1f} | {median(theirs):.1f} | "
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def random_model(name: str) -> Any:
    """Official shapes; what the values are does not matter to the time they take."""
    config = {"vocab_size": VOCAB[name], "n_layer": LAYERS, "n_embd": WIDTH}
    model = build_meta(ModelSpec(name, "0.1b", TARGETS[name], config))
    model = model.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


@torch.no_grad()
def decode(model: Any, tokens: int) -> float:
    """Seconds for `tokens` single steps from an early position."""
    _, state = model(torch.tensor([[1, 2, 3]]), model.init_state(1))
    token = torch.tensor([[5]])
    began = time.perf_counter()
    for _ in range(tokens):
        _, state = model(token, state)
    return time.perf_counter() - began


class Peer:
    """The `rwkv` package in a child process, which decodes when told to."""

    def __init__(self, name: str, path: str) -> None:
        threads = str(torch.get_num_threads())
        command = [sys.executable, "-c", CHILD, name, path, threads]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Peer:
        if self._answer() != "ready":
            raise RuntimeError("the rwkv package could not load the weights")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def decode(self, tokens: int) -> float:
        """Seconds for `tokens` single steps."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(f"{tokens}\n")
        pipe.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
