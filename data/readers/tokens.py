"""Corpora that somebody else has tokenized: binidx, nanoGPT's `.bin`, arrays of NumPy's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from core.parsing import regular
from data.documents import Document
from data.readers import binidx, token_files
from data.readers.paths import NamedFiles, in_order
from data.text import TextTokenizer


class TokenFiles:
    """The documents in files of token ids that `data.paths` names.

    `data.tokenizer` is the one that the ids belong to.
    """

    verbatim = False

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` if nothing is named, or `data.tokenizer` can be that of no ids."""
        paths = [f"{path}.bin" if _is_prefix(path) else path for path in conf.paths]
        self._conf, self._named = conf, NamedFiles(replace(conf, paths=paths))

    @property
    def files(self) -> list[str]:
        """All files that decide the documents, the tokenizer's too; none if one is not there."""
        files = with_indices(self._named.files)
        return [*files, *vocabulary_file(self._conf)] if files else []

    def __iter__(self) -> Iterator[Document]:
        self._named.refuse()
        tokenizer = tokenizer_of(self._conf)
        for path in map(Path, with_indices(self._named.all)):
            yield from documents(path, self._conf, tokenizer)


def documents(path: Path, conf: DataConf, tokenizer: TextTokenizer) -> Iterator[Document]:
    """The documents in a file of token ids; none in an index, which comes with its `.bin`.

    Raises `UserError` for what is none, damaged or cut short.
    """
    if path.suffix == ".idx":
        with regular(path.with_suffix(".bin")):
            return
    index = path.with_suffix(".idx")
    if conf.corpus == "tokens" and conf.end_of_text == "after":  # as they are
        run = binidx.whole(index) if has_index(path) else token_files.run_of(path, conf.ids)
        yield from token_files.whole(run, tokenizer)
        return
    runs = binidx.documents(index) if has_index(path) else [token_files.run_of(path, conf.ids)]
    for run in runs:
        yield from token_files.documents(run, tokenizer)


def _is_prefix(path: str) -> bool:
    """Whether this is what RWKV-LM and Megatron call a binidx: the path without a suffix."""
    try:
        place = Path(path).expanduser()
        names = [place.with_name(f"{place.name}.{end}") for end in ("bin", "idx")]
        return not place.exists() and all(name.is_file() for name in names)
    except (OSError, ValueError, RuntimeError):  # no path at all, which is told where it is opened
        return False


def has_index(path: Path) -> bool:
    """Whether the index of a binidx lies beside this file."""
    return path.suffix == ".bin" and path.with_suffix(".idx").is_file()


def with_indices(paths: list[str]) -> list[str]:
    """These files, once and in order, each `.bin` with its `.idx` if it has one, and vice versa."""
    more = [f"{path[:-4]}.bin" for path in paths if path.endswith(".idx")]
    more += [
        f"{path[:-4]}.idx" for path in paths if path.endswith(".bin") and has_index(Path(path))
    ]
    new = {*more} - {*paths}
    return sorted([*paths, *new], key=in_order) if new else paths


def tokenizer_of(conf: DataConf) -> TextTokenizer:
    """The tokenizer that ids belong to. Raises `UserError` for one that is made of texts."""
    from data import recipes, tokenizers  # they import the library, and a command line needs none

    if conf.tokenizer in ("bpe", "chars"):
        raise UserError(
            f"data.tokenizer={conf.tokenizer} is made of texts, and data.paths names token ids: "
            "give the file of the tokenizer that they belong to, as data.tokenizer=tokenizer.json"
        )
    file = recipes.foreign(conf)
    if file is None:
        return tokenizers.byte_tokenizer()
    with file:
        file.try_on([])
        return file.tokenizer()


def vocabulary_file(conf: DataConf) -> list[str]:
    """The file of the tokenizer, if it has one."""
    is_file = os.path.isfile(conf.tokenizer)  # noqa: PTH113  Path.is_file raises for too long a name
    return [os.path.realpath(conf.tokenizer)] if is_file else []
