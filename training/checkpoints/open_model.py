"""Weights of any kind opened for use: the model, its tokenizer, and where both came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conf.schema import INT8, WeightsConf
from core.errors import UserError
from core.parsing import Missing, Unreadable, read_yaml
from data import foreign, tokenizers
from data.text import TextTokenizer
from models import load
from models.contract import Model, makes_rows
from models.decoding.int8 import round_to_int8
from models.formats.run_checkpoints import PATTERN
from models.formats.weights import DTYPES
from training.checkpoints.weights_source import Source, check_alike, check_tokenizer, find_source
from training.run_folder.folder import RunFolder


@dataclass(frozen=True)
class Opened:
    """A model on its device, with the tokenizer it was trained with."""

    model: Model
    tokenizer: TextTokenizer
    tokenizer_path: Path
    source: Source

    @property
    def folder(self) -> RunFolder | None:
        """That of the run which wrote the weights, if a run has."""
        path = self.source.weights
        return RunFolder(path.parent.parent) if PATTERN.fullmatch(path.name) else None

    @property
    def trained_length(self) -> int | None:
        """Context length of its training in tokens, where the run's configuration has it."""
        if self.folder is None:
            return None
        try:
            length: Any = read_yaml(self.folder.config)["data"]["length"]
        except (Missing, Unreadable, KeyError, TypeError):
            return None
        return length if type(length) is int and length > 0 else None


def open_model(conf: WeightsConf, texts: Sequence[str] = ()) -> Opened:
    """What `conf.run` names.

    A tokenizer of unknown origin is tried on `texts`. Raises `UserError` if anything is missing or
    does not fit together.
    """
    source = find_source("run", conf.run, conf.runs_dir)
    given = Path(conf.tokenizer) if conf.tokenizer else None
    path = given or source.tokenizer
    if path is None:
        raise UserError(
            f"run={conf.run!r} comes without a tokenizer: add tokenizer=PATH, a tokenizer.json or "
            "the vocabulary of RWKV World (rwkv_vocab_v20230424.txt)"
        )
    tokenizer = foreign.load(path, texts)
    check_tokenizer(source, tokenizer, given)
    if given is not None:
        check_alike(source, tokenizer, given)
    on_gpu = conf.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    in_int8 = conf.dtype == INT8
    dtype = torch.float32 if in_int8 else DTYPES.get(conf.dtype)
    model = load(source.weights, device, dtype, conf.weights)
    if makes_rows(model):
        raise UserError(
            f"run={conf.run!r} is {model.title}, which makes whole images and reads no text; those "
            "of a training are in its samples.jsonl (training.sample_every)"
        )
    if in_int8:
        round_to_int8(model)
    tokenizers.check_fits(tokenizer, model.config.vocab_size, str(source.weights))
    return Opened(model, tokenizer, path, source)
