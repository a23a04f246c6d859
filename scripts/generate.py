"""Continue a prompt with a trained run: `python scripts/generate.py run=first prompt="def "`.

With `prompts=FILE.jsonl out=FILE.jsonl`, all prompts of a file, many at a time; the same command
goes on where a killed one stopped.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("generate", "scripts.generate:main")

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from conf.schema import GenerateConf
from core.units import counted
from data.text import StreamDecoder
from models.decoding.beam import beam_search
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from serving.batch_file import Job, answer_file
from serving.engine import Engine
from training.checkpoints.open_model import open_model


def main(conf: GenerateConf) -> None:
    """Print the prompt and its continuation as it comes, or write those of a file."""
    if conf.prompts is not None and conf.out is not None:
        _file(conf, Path(conf.prompts), Path(conf.out))
        return
    pieces = continuation(conf)
    first = next(pieces, "")  # what can be wrong is said before anything is printed
    print(conf.prompt, end="", flush=True)
    try:
        print(first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:  # a message begins on a line of its own
        print()


def _file(conf: GenerateConf, prompts: Path, out: Path) -> None:
    sampling = Sampling(conf.temperature, conf.top_k, conf.top_p, seed=conf.seed)
    job = Job(prompts, out, conf.tokens, sampling)
    opened = open_model(conf)
    model: Any = opened.model
    is_shown = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if is_shown:
            print(f"\r{done:,} of {total:,} prompts", end="", file=sys.stderr, flush=True)

    try:
        failed = answer_file(job, Engine(model.eval()), opened.tokenizer, tell)
    finally:
        if is_shown:
            print(file=sys.stderr)
    print(f"written to {out}" + (f"; {counted(failed, 'prompt')} had no answer" if failed else ""))


def continuation(conf: GenerateConf) -> Iterator[str]:
    """Text after the prompt, piece by piece. Raises `UserError`."""
    opened = open_model(conf, [conf.prompt])
    model, tokenizer = opened.model, opened.tokenizer
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    prompt = tokenizer.encode(conf.prompt) or [tokenizer.end_of_text or 0]
    generator = torch.Generator(device).manual_seed(conf.seed)
    decoder = StreamDecoder(tokenizer, after=prompt)
    tokens = torch.tensor(prompt, device=device)
    sampling = Sampling(conf.temperature, conf.top_k, conf.top_p)
    answer: Iterable[int]
    if conf.beam:
        end = tokenizer.end_of_text
        answer = beam_search(model, tokens, conf.tokens, conf.beam, end)[0].tokens
    else:
        answer = generate(model, tokens, conf.tokens, sampling, generator)
    for token in answer:
        yield decoder.push(token)
    yield decoder.flush()
