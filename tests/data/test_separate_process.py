"""Preparing in a process of its own: the same bytes and messages, and an end with whoever asked."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from conf.schema import DataConf
from core.environment import ROOT
from core.errors import UserError
from data import separate_process, tokenizers
from data.store import prepare
from tests.data.test_crew import gone
from tests.data.test_preparation import left
from tests.data.test_store import contents

TEXT = "".join(f"Row {i}, row {i * i}, row your boat ü\n" for i in range(900))


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConf:
    monkeypatch.setattr(separate_process, "LARGE", 0)
    lines = [json.dumps({"text": TEXT[i * 500 : i * 900 + 99]}) for i in range(9)]
    (tmp_path / "texts.jsonl").write_text("\n".join(["no JSON", *lines]) + "\n")
    return DataConf(
        corpus="jsonl",
        paths=[str(tmp_path / "texts.jsonl")],
        on_bad="skip",
        vocab_size=300,
        length=8,
        val_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )


def with_masks(conf: DataConf) -> None:
    lines = [json.dumps({"q": TEXT[:90], "a": TEXT[i : i + 90]}) for i in range(9)]
    Path(conf.paths[0]).write_text("\n".join(lines))
    conf.prompt, conf.answer = "q", "a"


def with_a_file(conf: DataConf) -> None:
    conf.tokenizer = str(Path(conf.cache_dir).with_name("bytes.json"))
    tokenizers.byte_tokenizer().save(conf.tokenizer)


@pytest.mark.parametrize("kind", ["bpe", "masks", "file"])
def test_the_same_bytes_and_every_line_once(
    conf: DataConf,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    changes = {"masks": with_masks, "file": with_a_file}
    if kind in changes:
        changes[kind](conf)
    folder = prepare(conf).folder
    apart = contents(folder)
    said = capfd.readouterr().err
    assert said.count("prepared jsonl: ") == 1
    assert said.count("left out 1 of 10 records") == (kind != "masks")
    shutil.rmtree(folder)
    monkeypatch.setattr(separate_process, "LARGE", 1 << 40)
    assert contents(prepare(conf).folder) == apart


def test_what_the_tokenizer_cannot_represent_is_the_same_message(conf: DataConf) -> None:
    conf.tokenizer = str(Path(conf.cache_dir).with_name("ascii.json"))
    tokenizers.char_tokenizer({*TEXT} - {"ü"}).save(conf.tokenizer)
    with pytest.raises(UserError, match=r"cannot represent 'ü'"):
        prepare(conf)
    assert left(conf) == []


def test_a_disk_that_fails_is_the_same_message(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_apart = separate_process.fill_apart

    def full(*asked: Any) -> None:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, most[1]))  # bytes of a file
        try:
            fill_apart(*asked)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)

    conf.tokenizer = "bytes"
    monkeypatch.setattr(separate_process, "fill_apart", full)
    with pytest.raises(UserError, match=r"cannot store the prepared corpus there .*too large"):
        prepare(conf)
    assert left(conf) == []


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
sys.path.insert(0, sys.argv[1])
from conf.schema import DataConf
from data import separate_process, store
separate_process.LARGE = 0
conf = DataConf(corpus="text", paths=[sys.argv[2]], tokenizer="bytes", cache_dir=sys.argv[3])
print("begun", flush=True)
store.prepare(conf)
"""


@pytest.mark.parametrize(
    "stop",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
    ids=["killed", "stopped"],
)
def test_it_does_not_outlive_the_one_that_asked(tmp_path: Path, stop: signal.Signals) -> None:
    text = tmp_path / "large.txt"
    text.write_text(TEXT * 1500)
    words = [sys.executable, "-c", STOPPED, str(ROOT), str(text), str(tmp_path / "cache")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    children: list[psutil.Process] = []
    while not children:
        assert process.poll() is None
        children = psutil.Process(process.pid).children()
    process.send_signal(stop)
    assert process.wait(timeout=60) != 0
    assert gone([child.pid for child in children])


def test_one_that_is_killed_is_one_message(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = separate_process._answer

    def killed(process: subprocess.Popen[bytes], request: bytes) -> bytes:
        process.kill()
        return answer(process, request)

    monkeypatch.setattr(separate_process, "_answer", killed)
    with pytest.raises(UserError, match="ended with status -9, as it does where memory runs out"):
        prepare(conf)
    assert left(conf) == []
