"""The token stream of RWKV-LM: nothing held out, ids as they lie in its file, in its order."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import DataConf
from data.batches import Batches
from data.export import write_binidx
from data.mixture import heldout, measured_on, open_data
from data.readers import binidx
from data.store import prepare
from tests.data.test_preparation import encoded_bytes, interrupted
from tests.data.test_store import contents
from tests.scripts.commands import run_script
from tests.training.runs import run, run_conf
from tracking.jsonl import read_rows

END = 256  # of the tokenizer of bytes
TEXTS = [f"document {i}: {i * i} ü\n" * (1 + i % 7) for i in range(60)]


@pytest.fixture
def stream(tmp_path: Path) -> np.ndarray:
    """A binidx as RWKV-LM's tools make it, with a copy, an empty document and a cut one at the end:
    what lies in its `.bin`."""
    texts = [*TEXTS[:30], TEXTS[3], "", *TEXTS[30:]]
    documents: list[list[np.ndarray]] = [
        [np.frombuffer(text.encode(), np.uint8).astype(np.int64), np.array([END])] for text in texts
    ]
    documents.append([np.arange(65, 90)])
    binidx.write(tmp_path / "own", documents, 257)
    (tmp_path / "watch.txt").write_text("something else to validate on\n" * 40)
    return np.fromfile(tmp_path / "own.bin", "<u2")


def conf(folder: Path, **changes: Any) -> DataConf:
    settings: dict[str, Any] = {
        "corpus": "tokens", "paths": [str(folder / "own.bin")], "tokenizer": "bytes",
        "end_of_text": "after", "val_fraction": 0.0, "order": "magic_prime", "length": 16,
        "batch_size": 6, "cache_dir": str(folder / "cache"),
        "validation": {"watch": {"corpus": "text", "paths": str(folder / "watch.txt")}},
    }  # fmt: skip
    return DataConf(**settings | changes)


def rwkv_lm_prime(tokens: int, ctx_len: int) -> int:
    """The largest prime that is 2 modulo 3 and not above tokens // ctx_len - 1, by trial."""
    found = tokens // ctx_len - 1
    while found % 3 != 2 or any(found % n == 0 for n in range(2, math.isqrt(found) + 1)):
        found -= 1
    return found


def sample(stream: np.ndarray, epoch: int, idx: int, rank: int, run: dict[str, int]) -> np.ndarray:
    """One sample, `[ctx_len + 1]`, as the published formula of `dataset.py` has it."""
    per_epoch = run["epoch_steps"] * run["world"] * run["micro"]
    ii = 1 + epoch * per_epoch + idx * run["world"] + rank
    prime, ctx_len = run["prime"], run["ctx_len"]
    factor = int(prime * ((math.sqrt(5) - 1) / 2))
    first = ((factor * ii * ii * ii) % prime) * ctx_len
    return stream[first : first + ctx_len + 1]


def test_batches_are_those_of_rwkv_lm(tmp_path: Path, stream: np.ndarray) -> None:
    """Of each micro-batch of its processes, over several of its epochs, in any order of rows."""
    settings = conf(tmp_path)
    corpus = prepare(settings)
    assert np.array_equal(corpus.train[:], stream) and corpus.meta.val_tokens == 0
    batches = Batches(corpus, settings, seed=7)
    theirs = {"epoch_steps": 5, "world": 2, "micro": 3, "ctx_len": 16,
              "prime": rwkv_lm_prime(len(stream), 16)}  # fmt: skip
    for epoch in range(4):
        for step in range(theirs["epoch_steps"]):
            rows = [
                sample(stream, epoch, step * theirs["micro"] + number, rank, theirs).tolist()
                for rank in range(theirs["world"])
                for number in range(theirs["micro"])
            ]
            ours = batches[epoch * theirs["epoch_steps"] + step].tolist()
            assert sorted(ours) == sorted(rows)


def test_texts_get_the_token_after_each_document(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:03}.txt").write_text(text)
    texts = conf(tmp_path, corpus="text", paths=[str(tmp_path / "texts" / "*.txt")])
    after = prepare(texts)
    expected = [i for text in TEXTS for i in [*text.encode(), END]]
    assert after.train[:].tolist() == expected
    before = prepare(replace(texts, end_of_text="before"))
    assert before.train[:].tolist() == [END, *expected[:-1]]
    assert before.fingerprint != after.fingerprint
    write_binidx(after, "train", tmp_path / "own")
    assert np.fromfile(tmp_path / "own.bin", "<u2").tolist() == expected
    found = [*binidx.documents(tmp_path / "own.idx")]
    assert [run.count for run in found] == [len(text.encode()) + 1 for text in TEXTS]
    assert np.array_equal(prepare(conf(tmp_path)).train[:], after.train[:])
    halves = prepare(replace(texts, val_fraction=0.3))
    val, train = halves.val[:], halves.train[:]
    assert val[-1] == train[-1] == END and END not in (val[0], train[0])


def test_a_mask_says_whether_the_last_end_is_learned(tmp_path: Path) -> None:
    lines = '{"q": "ask", "a": "say"}\n{"q": "more", "a": "yes"}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "watch.txt").write_text("x" * 50)
    pairs = conf(tmp_path, corpus="jsonl", paths=[str(tmp_path / "a.jsonl")], prompt="q",
                 answer="a", length=4)  # fmt: skip
    corpus = prepare(pairs)
    mask = np.fromfile(corpus.folder / "train.mask", "u1")
    assert corpus.train[:].tolist() == [*b"asksay", END, *b"moreyes", END]
    assert mask.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]


def test_stopped_anywhere_it_is_the_same_stream(
    tmp_path: Path, stream: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:03}.txt").write_text(text)
    monkeypatch.setattr("data.preparation.SHARD", 600)
    for settings in (conf(tmp_path, corpus="text", paths=[str(tmp_path / "texts" / "*.txt")]),):
        whole = prepare(settings)
        sound = contents(whole.folder)
        for saves in (1, 3):
            other = replace(settings, cache_dir=str(tmp_path / f"cache{saves}"))
            interrupted(other, monkeypatch, saves)
            corpus, encoded = encoded_bytes(other, monkeypatch)
            assert 0 < encoded < whole.meta.train_bytes and contents(corpus.folder) == sound


def test_the_first_named_text_validates(tmp_path: Path, stream: np.ndarray) -> None:
    settings = conf(tmp_path)
    data = open_data(settings)
    (text,) = heldout(settings, data)
    assert (text.name, text.share) == ("watch", 1.0)
    assert measured_on(data, (text,)).val_tokens_per_byte == text.corpus.meta.val_tokens_per_byte
    assert heldout(replace(settings, validation=None), data) == ()
    assert measured_on(data, ()).val_tokens_per_byte is None


def test_a_training_on_the_whole_stream(tmp_path: Path, stream: np.ndarray) -> None:
    keys = {f"data__{key}": value for key, value in vars(conf(tmp_path)).items()}
    wanted = ("corpus", "paths", "end_of_text", "val_fraction", "order", "validation")
    changes = {key: keys[key] for key in (f"data__{name}" for name in wanted)}
    summary, folder = run(run_conf(tmp_path, tmp_path / "own.bin", **changes))
    rows = [row for row in read_rows(folder.metrics) if "val/loss" in row]
    assert rows and all(row["val/loss"] == row["val/watch/loss"] for row in rows)
    assert summary["val_loss"] == summary["validation"]["watch"]["loss"]
    assert summary["val_bits_per_byte"] == summary["validation"]["watch"]["bits_per_byte"]
    assert summary["gzip_bits_per_byte"] > 0


def test_what_cannot_be_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text " * 99)
    words = ["data=text", f"data.paths=[{tmp_path / 'a.txt'}]"]
    for more, message in (
        (["data.val_fraction=0.00001"], "must be 0, or at least 0.0001"),
        (["data.end_of_text=after", "data.packing=documents"], "not with data.end_of_text=after"),
        (["data.end_of_text=behind"], "not one of its values"),
    ):
        done = run_script(capfd, "train", *words, *more)
        assert done.status == 2 and message in done.err, done.err
