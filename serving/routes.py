"""Routes: names for several models in an order, of which the first that can answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Route:
    """A name, and the models that are asked for it, in this order."""

    name: str
    models: tuple[str, ...]


def model_names(runs: Sequence[str]) -> list[str]:
    """What models are called: the last part of each path; all of it where two end alike."""
    names = [Path(run).name.removesuffix(".safetensors").removesuffix(".pth") for run in runs]
    return names if len({*names}) == len(names) else [*runs]


def routes_of(routes: Mapping[str, Sequence[str]] | None) -> list[Route]:
    """Routes as they are configured, which `route_problems` has found right."""
    return [Route(name, (*models,)) for name, models in (routes or {}).items()]


def route_problems(routes: Any, models: Sequence[str]) -> Iterator[str]:
    """What is wrong with configured routes over these models."""
    if routes is None:
        return
    if not isinstance(routes, dict):
        yield f"routes={shown(routes)}: write names and models, as in routes={{best: [A, B]}}"
        return
    known = ", ".join(models)
    for name, chosen in routes.items():
        place = f"routes.{shown(name)}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"{place}: a name is at most 64 letters, digits, '.', '_' and '-'"
        elif name in models:
            yield f"{place}: a model is called so already; choose another name"
        if not isinstance(chosen, list) or not chosen:
            yield f"{place}={shown(chosen)}: write models in their order, as in [A, B]"
            continue
        for one in chosen:
            if one not in models:
                yield f"{place}: no model is called {shown(one)!r}; there are: {known}"
        if len({*map(str, chosen)}) < len(chosen):
            yield f"{place}={shown(chosen)}: names one model twice"
