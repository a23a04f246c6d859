"""Continue a prompt with a trained run: `python scripts/generate.py run=first prompt="def "`."""

from __future__ import annotations

from pathlib import Path

import torch

from conf.launch import launch
from conf.schema import GenerateConf
from data import tokenizers
from data.text import StreamDecoder
from models import load
from models.errors import UserError
from models.sampling import generate
from training.checkpoint import newest
from training.folder import RunFolder


def main(conf: GenerateConf) -> None:
    """Print the prompt and its continuation as it comes."""
    folder = find_run(conf)
    checkpoint = newest(folder)
    if checkpoint is None:
        raise UserError(f"{folder.path} has no checkpoint yet: train it first")
    tokenizer = tokenizers.load(folder.tokenizer)
    on_gpu = conf.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    model = load(checkpoint, device)
    prompt = tokenizer.encode(conf.prompt) or [tokenizer.end_of_text or 0]
    generator = torch.Generator(device).manual_seed(conf.seed)
    print(conf.prompt, end="", flush=True)
    decoder = StreamDecoder(tokenizer)
    tokens = torch.tensor(prompt, device=device)
    for token in generate(model, tokens, conf.tokens, conf.temperature, conf.top_k, generator):
        print(decoder.push(token), end="", flush=True)
    print(decoder.flush())


def find_run(conf: GenerateConf) -> RunFolder:
    """The run by name below `runs_dir`, or by path. Raises `UserError` if there is none."""
    for path in (Path(conf.runs_dir, conf.run), Path(conf.run)):
        if (path / "checkpoints").is_dir():
            return RunFolder(path)
    raise UserError(f"run={conf.run!r}: no such run in {conf.runs_dir}/ and no such folder")


if __name__ == "__main__":
    launch("generate", main)
