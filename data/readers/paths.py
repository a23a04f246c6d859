"""The files that `data.paths` names, and one message for all that is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from data.readers.sources import Sources

EXAMPLES = {"jsonl": "book.jsonl", "tables": "book.parquet", "hub": "folder", "tokens": "book.bin"}
"""What `data.paths` may name, by reader."""


def unnamed(corpus: str) -> str:
    """What to say where a reader is given no files."""
    return f"data={corpus} needs data.paths, e.g. data.paths='[{_example(corpus)}]'"


def _example(corpus: str) -> str:
    return EXAMPLES.get(corpus, "book.txt")


class NamedFiles:
    """Every file that `data.paths` names, once, in order."""

    def __init__(self, conf: DataConf, folders: bool = False) -> None:
        """With `folders`, one stands for the files in it. Raises `UserError` if nothing is named.

        What is wrong with a path is collected, and told by `refuse`.
        """
        if not conf.paths:
            raise UserError(unnamed(conf.corpus))
        self._conf = conf
        self.sources = Sources(folders, f"*{Path(_example(conf.corpus)).suffix}")
        found = {path for pattern in conf.paths for path in self.sources.expand(pattern)}
        self.all = sorted(found, key=in_order)

    @property
    def paths(self) -> Iterator[Path]:
        """The files that were found, in order."""
        return map(Path, self.all)

    @property
    def files(self) -> list[str]:
        """The files; none if something is wrong with any."""
        return [] if self.sources.problems else self.all

    def refuse(self) -> None:
        """Raise `UserError` if anything is wrong with the paths, or with what was read there."""
        refuse_paths(self._conf, self.sources)


def in_order(path: str) -> str:
    """What files are sorted by: their folders' names, one after the other, then their own."""
    return path.replace("/", "\0")  # which sorts before all that a name can have


def refuse_paths(conf: DataConf, sources: Sources) -> None:
    """One message for all that is wrong with `data.paths`. Raises `UserError`."""
    if sources.problems and (whole := _divided(conf.paths)):
        quoted = whole.replace("'", "\\'")
        sources.problems.insert(0, f"a comma ends a path: write data.paths=['{quoted}']")
    refuse("data.paths", sources.problems)


def refuse(key: str, problems: list[str]) -> None:
    """One message for all that is wrong. Raises `UserError`."""
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise UserError(f"{key}: " + "; ".join(problems[:5] + more))


def _divided(paths: Sequence[str]) -> str:
    """The file whose name has commas and became several `paths`; empty if there is none."""
    for first, parts, comma in product(range(len(paths) - 1), range(2, 5), (", ", ",")):
        if first + parts <= len(paths):
            whole = comma.join(paths[first : first + parts])
            if os.path.isfile(os.path.expanduser(whole)):  # noqa: PTH111, PTH113
                return whole
    return ""
