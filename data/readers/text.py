"""Plain text: one document for each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from glob import has_magic
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from data.documents import Document
from data.readers.paths import NamedFiles, refuse_paths
from data.readers.sources import Sources
from data.readers.text_encoding import is_utf8

AT_ONCE = 4 << 20
"""Bytes of text that are looked at before any work."""


class TextFiles:
    """The text files named by `data.paths`. What is wrong with any is told after the last one."""

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` if nothing is named."""
        self._conf, self._named = conf, NamedFiles(conf)

    @property
    def files(self) -> list[str]:
        """The file of each document; none if something is wrong with the paths."""
        return self._named.files

    @property
    def verbatim(self) -> bool:
        """Whether the documents have the files' own bytes."""
        return is_utf8(self._conf.encoding)

    def __iter__(self) -> Iterator[Document]:
        sources, conf = self._named.sources, self._conf
        if self._named.all:
            base = os.path.commonpath([os.path.dirname(path) for path in self._named.all])  # noqa: PTH120
            for path in self._named.paths:
                parts = partial(sources.parts, path, conf.markup, conf.encoding)
                yield Document(path.relative_to(base).as_posix(), parts)
        self._named.refuse()


def early_problems(conf: DataConf) -> list[str]:
    """What `TextFiles` would refuse, judged from small files that are named without a glob."""
    sources, room = Sources(), AT_ONCE
    named = [pattern for pattern in conf.paths if not has_magic(pattern)]
    try:
        found = {path for pattern in named for path in sources.expand(pattern)}
        for path in map(Path, sorted(found)):
            if (size := path.stat().st_size) <= room:
                room -= size
                for _ in sources.parts(path, conf.markup, conf.encoding):
                    pass
        refuse_paths(conf, sources)
    except UserError as error:
        return [str(error)]
    except OSError:  # it vanished: reported where the texts are read
        pass
    return []
