"""Data sets of Hugging Face: read where they lie, none of their scripts run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data.readers import hub
from data.readers.hub import HubFiles

TEXTS = [f"text {i} ü" for i in range(20)]


def read(name: Path | str, **settings: object) -> list[str]:
    documents = HubFiles(DataConf(corpus="hub", paths=[str(name)], **settings))
    return [b"".join(document.parts()).decode() for document in documents]


def refusal(name: Path | str, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(name, **settings)
    return str(caught.value)


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_dict({"text": TEXTS, "id": [*range(20)]})
    saved.save_to_disk(tmp_path / "one", num_shards=3)
    assert read(tmp_path / "one") == TEXTS
    parts = datasets.DatasetDict(train=saved.select(range(15)), test=saved.select(range(15, 20)))
    parts.save_to_disk(tmp_path / "two")
    assert read(tmp_path / "two", split="test") == TEXTS[15:]
    assert "has no split 'dev'; those it has: ['train', 'test']" in refusal(
        tmp_path / "two", split="dev"
    )


def test_an_empty_split_is_told(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict(train=rows, test=rows.select([])).save_to_disk(tmp_path / "a")
    assert "has no rows" in refusal(tmp_path / "a", split="test")


def test_one_by_name_is_read_from_the_cache_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    load = partial(
        datasets.load_dataset, data_files=str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path)
    )
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_unreached", lambda name: "")
    assert read("json") == TEXTS
    message = refusal("json", split="test")
    assert message.startswith("data.paths: the data set json cannot be read: ")


@pytest.mark.parametrize(
    "name", ["no/such/name", "../up", "/nowhere/at/all", "a b", "", "x" * 5000]
)
def test_what_is_no_data_set_is_told(name: str) -> None:
    assert "data.paths: " in refusal(name) or "is no data set" in refusal(name)


def test_a_script_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "data=files reads whatever is in a folder" in refusal(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("names", [None, [{"filename": "../a.arrow"}], [{}], 3])
def test_a_damaged_description_is_told(tmp_path: Path, names: object) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": names}))
    assert "state.json is damaged" in refusal(tmp_path)


def test_a_split_of_a_data_set_without_splits_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "a")
    with pytest.raises(UserError, match="has no split 'test': it is one data set"):
        HubFiles(DataConf(corpus="hub", paths=[str(tmp_path / "a")], split="test"))
    assert len(HubFiles(DataConf(corpus="hub", paths=[str(tmp_path / "a")])).files) == 1


def test_nobody_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, offline = [], []

    class Api:
        def dataset_info(self, name: str, timeout: float) -> None:
            asked.append((name, timeout))
            raise OSError("Name or service not known")

    def load(*words: object, **more: object) -> object:
        offline.append((datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        return datasets_load(*words, **more)

    before = datasets.config.HF_HUB_OFFLINE
    datasets_load = partial(datasets.load_dataset, cache_dir=str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert refusal("nobody/nothing:part") == (
        "data.paths: the data set nobody/nothing cannot be read: it is not in the cache of "
        f"datasets, and {huggingface_hub.constants.ENDPOINT} does not answer (Name or service not "
        "known)"
    )
    assert asked == [("nobody/nothing", 8.0)] and offline == [(True, True)]
    assert datasets.config.HF_HUB_OFFLINE is before
