"""Continue a prompt with a trained run: `python scripts/generate.py run=first prompt="def "`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("generate", "scripts.generate:main")

from collections.abc import Iterator
from pathlib import Path

import torch

from conf.schema import GenerateConf
from core.errors import UserError
from data import foreign, tokenizers
from data.text import StreamDecoder
from models import load
from models.decoding.generate import generate
from models.formats.weights import DTYPES
from training.checkpoints.weights_source import check_tokenizer, find_source


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
    source = find_source("run", conf.run, conf.runs_dir)
    path = Path(conf.tokenizer) if conf.tokenizer else source.tokenizer
    if path is None:
        raise UserError(
            f"run={conf.run!r} comes without a tokenizer: add tokenizer=PATH, a tokenizer.json or "
            "the vocabulary of RWKV World (rwkv_vocab_v20230424.txt)"
        )
    tokenizer = foreign.load(path, [conf.prompt])
    if not conf.tokenizer:
        check_tokenizer(source, tokenizer)
    on_gpu = conf.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    model = load(source.weights, device, DTYPES.get(conf.dtype))
    tokenizers.check_fits(tokenizer, model.config.vocab_size, str(source.weights))
    prompt = tokenizer.encode(conf.prompt) or [tokenizer.end_of_text or 0]
    generator = torch.Generator(device).manual_seed(conf.seed)
    decoder = StreamDecoder(tokenizer, after=prompt)
    tokens = torch.tensor(prompt, device=device)
    for token in generate(model, tokens, conf.tokens, conf.temperature, conf.top_k, generator):
        yield decoder.push(token)
    yield decoder.flush()
