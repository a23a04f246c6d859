"""`--help` as a table of contents: what can be chosen, every key, its default and its meaning."""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf.schema import FOLDER, SCRIPTS, SPELLING, register, script_path
from scripts.cli.plugins import load_plugins

WIDTH = 120


def help_text(config_name: str) -> str:
    """The help page of one script, with the defaults that are in force for it.

    Raises what `load_plugins` raises.
    """
    load_plugins()
    node = SCRIPTS[config_name]
    register(config_name)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        defaults = OmegaConf.to_container(compose(config_name))
    command = script_path(config_name)
    if command.startswith("tests/"):  # a package that is not installed
        command = f"-m {command.removesuffix('.py').replace('/', '.')}"
    lines = [
        (node.__doc__ or "").strip(),
        "",
        f"usage: python {command} [key=value ...]",
        "       -m model=a,b runs every combination of comma-separated values",
        "       --cfg job prints the configuration and does nothing else",
        "",
    ]
    text = (FOLDER / f"{config_name}.yaml").read_text()
    if "- " in text:
        lines[-1:] = [
            "       --config-dir FOLDER adds choices of yours, as FOLDER/experiment/mine.yaml",
            "",
        ]
    groups = [path for path in sorted(FOLDER.iterdir()) if f"- {path.name}:" in text]
    if groups:
        lines.append("choices (files in conf/)")
        for group in groups:
            names = ", ".join(path.stem for path in sorted(group.glob("*.yaml")))
            choices = f"  {group.name}={names}"
            lines += textwrap.wrap(choices, WIDTH, subsequent_indent=" " * (len(group.name) + 3))
        lines.append("")
    rows = list(_rows(node, defaults))
    width = max(len(name) for name, _, _ in rows)
    for name, default, doc in rows:
        if default is None:
            lines += ["", f"{name}: {doc}"]
        else:
            text = f"  {name:<{width}}  {doc}{default}"
            lines += textwrap.wrap(
                text, WIDTH, subsequent_indent=" " * (width + 4), break_on_hyphens=False
            )
    if "model" in (path.name for path in groups):
        lines += ["", "model.* keys and sizes: conf/model/*.yaml"]
    return "\n".join(lines)


def _rows(node: type, values: Any, prefix: str = "") -> Iterator[tuple[str, str | None, str]]:
    """(name, default or None for a heading, meaning) of every key, plain keys first.

    `values` is the composed configuration as plain values.
    """
    groups = []
    hints = typing.get_type_hints(node)
    for item in fields(node):
        default = values[item.name]
        if is_dataclass(hints[item.name]):
            groups.append((item.name, hints[item.name]))
        elif "doc" in item.metadata:
            choices = item.metadata["choices"]
            doc = item.metadata["doc"] + (f": {' | '.join(choices)}" if choices else "")
            has_default = default not in ("???", None, "") and not isinstance(default, dict)
            text = str(default).lower() if isinstance(default, bool) else str(default)
            name = SPELLING.get(item.name, item.name)
            yield f"{prefix}{name}", f" [{text}]" if has_default else "", doc
    for name, kind in groups:
        yield name, None, (kind.__doc__ or "").strip()
        yield from _rows(kind, values[name], f"{name}.")
