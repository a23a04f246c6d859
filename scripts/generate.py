"""Continue a prompt with a trained run: `python scripts/generate.py run=first prompt="def "`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("generate", "scripts.generate:main")

from collections.abc import Iterator

import torch

from conf.schema import GenerateConf
from data.text import StreamDecoder
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from training.checkpoints.open_model import open_model


def main(conf: GenerateConf) -> None:
    """Print the prompt and its continuation as it comes."""
    pieces = continuation(conf)
    first = next(pieces, "")  # what can be wrong is said before anything is printed
    print(conf.prompt, end="", flush=True)
    try:
        print(first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:  # a message begins on a line of its own
        print()


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
    for token in generate(model, tokens, conf.tokens, sampling, generator):
        yield decoder.push(token)
    yield decoder.flush()
