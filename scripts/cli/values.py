"""A value tried on a key of a composed configuration: is the key there, and does it fit?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.bounds import INTEGER, NUMBER, TRUTH, VALUES
from scripts.cli.limits import beyond

KINDS = {"Integer": INTEGER, "Float": NUMBER, "bool": TRUTH}


def has(config: Any, name: str) -> bool:
    """Whether there is a key of that dotted name."""
    for part in name.split("."):
        if not OmegaConf.is_dict(config) or part not in list(config):
            return False
        config = config._get_node(part)
    return True


def names(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of every leaf a user may set."""
    for part in map(str, config):
        node = config._get_node(part)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            if part != "sizes":
                yield from names(node, f"{prefix}{part}.")
        else:
            yield f"{prefix}{part}"


def misfit(trial: DictConfig, name: str, text: str) -> str | None:
    """Set one key of a configuration to try it on; what is wrong with the value, or None."""
    value = OverridesParser.create().parse_override(f"{name}={text}").value()
    parent, _, leaf = name.rpartition(".")
    # As it stands there: what it may refer to need not have a value yet.
    node: Any = (OmegaConf.select(trial, parent) if parent else trial)._get_node(leaf)
    old = node if OmegaConf.is_config(node) else node._value()
    if beyond(value):
        return f"{name}={text}: an integer must fit into 64 bits"
    if isinstance(old, bool) and not isinstance(value, bool):  # OmegaConf takes 7 for true
        return f"{name}={text}: {KINDS['bool']}"
    is_mixed = OmegaConf.is_list(old) and old._metadata.element_type is Any
    nested = (list,) if is_mixed else (list, dict)  # of names, and mappings with arguments
    if isinstance(value, list) and any(isinstance(element, nested) for element in value):
        return f"{name}={text}: {VALUES}"
    if OmegaConf.is_dict(old) and not isinstance(value, dict):
        such = "".join(f", such as {name}.{key}" for key in itertools.islice(old, 1))
        return f"{name}={text}: {name} is a group of keys{such}"
    try:
        OmegaConf.update(trial, name, value, merge=True)
    except OmegaConfBaseException as error:
        kind = re.search(r"could not be converted to (\w+)|not a valid (bool)", str(error))
        expected = KINDS.get(kind[1] or kind[2]) if kind else None
        problem = expected or str(error).splitlines()[0]
        typed = value if isinstance(value, str) else text
        # What the schema says to somebody who gave a key of the first level a wrong value.
        config: Any = OmegaConf.get_type(trial)
        schema_fields = fields(config) if is_dataclass(config) else ()
        hints = {item.name: item.metadata.get("hint") for item in schema_fields}
        hint = f"; {hints[name]}" if hints.get(name) else ""
        return f"{name}={typed}: {problem}{hint}"
    return None
