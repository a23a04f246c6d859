"""Every model of `conf/model/`, small and with weights that make each law worth testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from models import registry
from models.contract import separator_of
from models.registry import ModelSpec, build
from scripts.cli.model_spec import model_spec
from tests.fixtures import foreign_models

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "model"
EVERY = sorted(path.stem for path in FOLDER.glob("*.yaml"))
IMAGES = ["sagan"]
"""Those that make whole rows and read none: of most laws they can keep no part."""
NAMES = [name for name in EVERY if name not in IMAGES]
FOREIGN = foreign_models.install()
VARIANTS = [
    *NAMES,
    "transformer window=24",
    "transformer windows=16,all",
    "transformer n_conv=4",
    "transformer position=nope",
    "rwkv7 rate_limit=2.0",
    "hybrid layers=rwkv4,mamba2,gru",
    "rwkv5 ungated=true",
    "hull plane=true",
    "hull top_k=4",
    "hybrid layers=rwkv7,hull",
    *(one for one in FOREIGN if one not in NAMES),
]
"""All that must keep the contract: models as they come, with options that change their cost,
and models of others."""
VOCAB = 97


def spec_of(name: str, size: str = "tiny", vocab: int = VOCAB, **by_hand: Any) -> ModelSpec:
    """The spec a command line `model=name model.size=size model.key=value` leads to.

    `name` may be a variant, `"name key=value"`.
    """
    name, *options = name.split()
    by_hand |= {key: yaml.safe_load(value) for key, value in (one.split("=") for one in options)}
    path = FOLDER / f"{name}.yaml"  # before a fixture of the same name
    group = FOREIGN[name] if name not in EVERY else yaml.safe_load(path.read_text())
    if "separator" in group and vocab > SEPARATOR:  # else most rows would have none
        by_hand = {"separator": SEPARATOR, **by_hand}
    return model_spec({**group, "size": size, **by_hand}, vocab)


def shaken(name: str, **by_hand: Any) -> Any:
    """A tiny model whose every weight matters: official initialisations zero whole projections."""
    torch.manual_seed(0)
    model: Any = build(spec_of(name, **by_hand))
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim >= 2 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)
    return model


def steady(model: Any) -> Any:
    """The model, in fp64 if it chooses by scores: no rounding then decides between two of them."""
    return model.double() if getattr(model, "chooses", False) else model


def some_tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (batch, length), generator=generator)


SEPARATOR = int(some_tokens(1, 7)[0, 6])
"""The seventh token of the first row of `some_tokens`, whatever its shape; 46 symbols lie before
it, more than a pointer network has places."""


def separated(model: Any, tokens: torch.Tensor, place: int | None = None) -> torch.Tensor:
    """Tokens `[B, T]` with the model's separator, if it needs one, at this place of each row, by
    default in the middle."""
    mark = separator_of(model)
    if mark is None or not tokens.shape[1]:
        return tokens
    tokens = torch.where(tokens == mark, (tokens + 1) % VOCAB, tokens)
    tokens[:, tokens.shape[1] // 2 if place is None else place] = mark
    return tokens


def is_recurrent(name: str) -> bool:
    """What the class says."""
    spec = spec_of(name)
    return registry.is_recurrent(spec.target, spec.config)
