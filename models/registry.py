"""From a plain description to a model: the only place that turns a class path into a class."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from core.errors import UserError, shown

if TYPE_CHECKING:  # it imports PyTorch, and a command line is checked before that
    from models.contract import Model


@dataclass(frozen=True)
class Nature:
    """What a model says it is; nothing else may be concluded from what it is called."""

    recurrent: bool
    title: str
    options: dict[str, Any]
    """Those fields of its `options` that were set to something else than their default."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to rebuild a model, as plain data (pickles and serialises to JSON)."""

    name: str
    """Model name, the stem of its YAML in `conf/model/`."""
    size: str
    """Preset it was built from, for people."""
    target: str
    """Class path inside `models`, e.g. `models.rwkv4.RWKV4`."""
    config: dict[str, Any]
    """Fields of the class's config dataclass."""


def model_class(target: str) -> Any:
    """The class at `target`; refuses anything outside the `models` package.

    Raises `UserError` if the path does not name a model.
    """
    module_name, _, class_name = str(target).rpartition(".")
    if module_name.split(".")[0] != "models":
        raise UserError(f"model.target={target!r:.200}: only classes inside models/ can be built")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"model.target={target!r:.200}: no such class ({shown(error, 200)})"
        ) from None
    # What a module of ours has imported from elsewhere is reachable through it, and is not ours.
    if getattr(cls, "__module__", None) != module_name or not hasattr(cls, "Config"):
        raise UserError(f"model.target={target!r:.200}: not a model (it has no Config)")
    return cls


def is_recurrent(target: str, config: dict[str, Any]) -> bool:
    """Whether the class at `target` with these config fields is recurrent, as it says itself.

    Raises `UserError` if there is no such class here.
    """
    cls = model_class(target)
    ask = getattr(cls, "is_recurrent", None)  # where that depends on the config
    return bool(cls.recurrent if ask is None else ask(config))


def separator(target: str, config: dict[str, Any]) -> int | None:
    """The token between source and target that the class at `target` needs, with these config
    fields; None for a model that reads any row. Raises `UserError` if there is no such class here.
    """
    ask = getattr(model_class(target), "separator", None)
    return None if ask is None else ask(config)


def pointing(target: str, config: dict[str, Any]) -> tuple[int, int] | None:
    """The places of a source that the class at `target` can write, with these config fields, and
    the tokens of each item of one; None: it writes no places. Raises as `separator` does."""
    ask = getattr(model_class(target), "pointing", None)
    return None if ask is None else ask(config)


def makes_rows(target: str) -> bool:
    """Whether the class at `target` makes whole rows and reads none (`models.contract.makes_rows`).

    Raises `UserError` if there is no such class here.
    """
    return bool(getattr(model_class(target), "makes_rows", False))


def nature(target: str, config: dict[str, Any]) -> Nature:
    """What the class at `target`, with these config fields, says about itself.

    Raises `UserError` if there is no such class here.
    """
    cls = model_class(target)
    defaults = {field.name: field.default for field in fields(cls.Config)}
    options = {
        name: config[name]
        for name in getattr(cls, "options", ())
        if config.get(name) not in (None, defaults.get(name))
    }
    return Nature(is_recurrent(target, config), getattr(cls, "title", "") or cls.__name__, options)


def build(spec: ModelSpec) -> Model:
    """A freshly initialised model. Raises `UserError` on unknown or missing config fields."""
    cls = model_class(spec.target)
    field_names = {field.name for field in fields(cls.Config)}
    if unknown := sorted(set(spec.config) - field_names):
        raise UserError(f"{spec.target} has no config field {shown(', '.join(unknown), 200)}")
    return cls(cls.Config(**spec.config))
