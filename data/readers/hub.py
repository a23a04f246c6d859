"""Data sets of Hugging Face: saved in a folder, or by name through the package `datasets`.

What is read are Arrow's files; no script of a data set is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from conf.schema import DataConf
from core.errors import UserError, shown
from core.parsing import read_object
from data.documents import Document
from data.readers import tables
from data.readers.optional import needed
from data.readers.paths import unnamed
from data.readers.records import Documents

STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"
"""Files of a saved data set that hold no documents."""
PATIENCE = 8.0  # seconds that an answer about a data set may take
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")


class HubFiles:
    """The documents of the data sets that `data.paths` names, of the split `data.split`."""

    verbatim = False

    def __init__(self, conf: DataConf) -> None:
        """Finds the files, which downloads a data set that is named for the first time.

        Raises `UserError` if nothing is named, or there is no such data set or split.
        """
        if not conf.paths:
            raise UserError(unnamed("hub"))
        self._documents = Documents(conf)
        self.files = [str(file) for name in conf.paths for file in _files(name, conf.split)]

    @property
    def left_out(self) -> str:
        """What was said of the records that were left out."""
        return self._documents.left_out

    def __iter__(self) -> Iterator[Document]:
        yield from self._documents.in_files(map(Path, self.files), tables.records)


def _files(name: str, split: str) -> list[Path]:
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            return saved(folder.resolve(), split)
        is_file = folder.exists()
    except (OSError, ValueError):  # too long a name, a NUL in it
        is_file = False
    if is_file:
        raise UserError(f"data.paths: {shown(name, 200)} is no folder: data=files reads files")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"data.paths: {shown(name, 200)} is neither a folder nor the name of a data set, "
            "as OWNER/NAME or OWNER/NAME:CONFIGURATION"
        )
    return downloaded(name, split)


def saved(folder: Path, split: str) -> list[Path]:
    """The files of a data set that `save_to_disk` has written.

    Raises `UserError` if there is none, or it has no such split.
    """
    several = (folder / SPLITS).is_file()
    if several:
        there = read_object(folder / SPLITS).get("splits")
        if not isinstance(there, list) or split not in there:
            raise UserError(
                f"{folder} has no split {split!r}; those it has: {shown(there, 200)} (data.split=)"
            )
        folder = folder / split
    if not (folder / STATE).is_file():
        raise UserError(
            f"{folder} is no data set that was saved by datasets' save_to_disk: data=files reads "
            "whatever is in a folder"
        )
    state = read_object(folder / STATE)
    if not several and split not in ("train", state.get("_split")):
        raise UserError(
            f"{folder} has no split {split!r}: it is one data set (leave out data.split)"
        )
    entries = state.get("_data_files")
    if entries == []:
        raise UserError(f"{folder} has no rows: the data set, or this split of it, is empty")
    names = [entry.get("filename") for entry in entries] if isinstance(entries, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{folder / STATE} is damaged: it names no files of its folder")
    return [folder / name for name in names]


def downloaded(name: str, split: str) -> list[Path]:
    """The files of a data set of that name, in the cache of `datasets`.

    Raises `UserError` if there is none, or it cannot be had.
    """
    datasets = needed("datasets")
    name, _, configuration = name.partition(":")
    unreached = _unreached(name)
    try:
        with _without_network() if unreached else nullcontext():
            found: Any = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # of the network, of the server, of the data set
        reason = " ".join(str(error).split())[:300]
        if unreached:
            reason = f"it is not in the cache of datasets, and {unreached}"
        raise UserError(f"data.paths: the data set {name} cannot be read: {reason}") from None
    return [Path(entry["filename"]) for entry in found.cache_files]


def _unreached(name: str) -> str:
    """Why nobody answers who could have the data set; empty if somebody does.

    Asked once, as `datasets` asks again for half a minute before it says so.
    """
    hub = needed("huggingface_hub")
    try:
        hub.HfApi().dataset_info(name, timeout=PATIENCE)
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError):  # an answer, or no such name
        return ""
    except Exception as error:  # of the network, of which every version has its own
        reason = " ".join(str(error).split())[:200]
        return f"{hub.constants.ENDPOINT} does not answer ({reason})"
    return ""


@contextmanager
def _without_network() -> Iterator[None]:
    """What is in the cache is found without asking whether there is something newer."""
    places = [(needed(module), "HF_HUB_OFFLINE") for module in
              ("datasets.config", "huggingface_hub.constants")]  # fmt: skip
    before = [getattr(module, key) for module, key in places]
    try:
        for module, key in places:
            setattr(module, key, True)
        yield
    finally:
        for (module, key), value in zip(places, before, strict=True):
            setattr(module, key, value)
