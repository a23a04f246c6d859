"""A tiny model and a tokenizer, as a worker opens them."""

from __future__ import annotations

from pathlib import Path

from data.tokenizers import byte_tokenizer
from serving.requests import Loaded
from tests.registered_models import shaken

VOCAB = 257


def opened(name: str, folder: Path) -> Loaded:
    """A model that reads bytes."""
    path = folder / "tokenizer.json"
    if not path.exists():
        byte_tokenizer().save(path)
    return Loaded(shaken(name, vocab=VOCAB), path)
