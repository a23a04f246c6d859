"""Mixtures: parts in folders of their own, one tokenizer, batches in exact shares."""

from __future__ import annotations

import errno
import json
import logging
import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import DataConf
from core.errors import UserError
from data import mixture, shards, shared_tokenizer, store
from data.batches import Batches, Masked, train_loader
from data.meta import IGNORE
from data.mixed_order import MixedOrder
from data.mixture import Mixture, heldout, mean_loss, open_data, order_of, tell_of_parts
from data.store import Corpus, prepare


def corpus_of(fingerprint: str, tokens: int) -> Any:
    """As much of a corpus as an order needs."""
    return SimpleNamespace(fingerprint=fingerprint, meta=SimpleNamespace(train_tokens=tokens))


def write(folder: Path, name: str, line: str, count: int) -> str:
    path = folder / f"{name}.txt"
    path.write_text("".join(f"{line} {number}\n" for number in range(count)))
    return str(path)


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> DataConf:
    folder = tmp_path_factory.mktemp("mixture")
    return DataConf(
        corpus="text",
        tokenizer="bytes",
        length=16,
        batch_size=10,
        val_fraction=0.1,
        cache_dir=str(folder / "cache"),
        mix={"wiki": 0.7, "code": 0.3},
        parts={
            "wiki": {"paths": [write(folder, "wiki", "the river is wide", 150)]},
            "code": {"paths": write(folder, "code", "def f(x): return", 90), "val_fraction": 0.2},
        },
    )


@pytest.fixture(scope="module")
def mixed(conf: DataConf) -> Mixture:
    data = open_data(conf)
    assert isinstance(data, Mixture)
    return data


def changed(conf: DataConf, **settings: object) -> DataConf:
    return DataConf(**{**vars(conf), **settings})


def alone(conf: DataConf, name: str) -> DataConf:
    words = dict(conf.parts[name])
    words["paths"] = [words["paths"]] if isinstance(words["paths"], str) else words["paths"]
    return changed(conf, mix=None, parts=None, **words)


def test_each_part_is_the_corpus_that_it_would_be_alone(conf: DataConf, mixed: Mixture) -> None:
    for part in mixed.parts:
        plain = prepare(alone(conf, part.name))
        assert part.corpus.folder == plain.folder
    assert {part.name: part.quota for part in mixed.parts} == {"wiki": 7, "code": 3}
    assert mixed.shares == {"wiki": 0.7, "code": 0.3}


def test_batches_are_rows_of_the_parts_in_their_shares(conf: DataConf, mixed: Mixture) -> None:
    batches = Batches(mixed, conf, seed=1)
    corpora = [part.corpus for part in mixed.parts]
    names = [part.name for part in mixed.parts]
    for step in (0, 3, 40):
        batch, (numbers, starts) = batches[step], batches.order.places(step)
        assert batch.shape == (10, 17) and batch.dtype == torch.int64
        assert sorted(names[number] for number in numbers) == ["code"] * 3 + ["wiki"] * 7
        for row, number, start in zip(batch, numbers, starts, strict=True):
            assert row.tolist() == corpora[number].train[start : start + 17].tolist()


def test_batches_are_pure_and_shared_out(conf: DataConf, mixed: Mixture) -> None:
    whole = [Batches(mixed, conf, seed=0)[step] for step in range(8)]
    again = pickle.loads(pickle.dumps(Batches(open_data(conf), conf, seed=0)))
    for step in (7, 0, 3):
        assert torch.equal(again[step], whole[step])
    parts = [Batches(mixed, conf, seed=0, rank=rank, world=5)[6] for rank in range(5)]
    assert torch.equal(torch.cat(parts), whole[6])
    loader = train_loader(mixed, changed(conf, workers=2), seed=0, start_step=5)
    for step, batch in zip(range(5, 8), loader, strict=False):
        assert torch.equal(batch, whole[step])


def test_a_mixture_of_one_part_is_that_part(conf: DataConf) -> None:
    for kind in ("bytes", "bpe"):
        one = changed(
            conf, tokenizer=kind, vocab_size=300, mix={"a": 0.4}, parts={"a": conf.parts["wiki"]}
        )
        data, plain = open_data(one), prepare(alone(one, "a"))
        assert isinstance(data, Corpus) and data.fingerprint == plain.fingerprint
        assert torch.equal(Batches(data, one, seed=2)[9], Batches(plain, one, seed=2)[9])


def test_names_and_scale_decide_nothing_and_shares_do(conf: DataConf, mixed: Mixture) -> None:
    parts = {"x": conf.parts["code"], "y": conf.parts["wiki"]}
    same = changed(conf, mix={"x": 3, "y": 7}, parts=parts)
    data = open_data(same)
    assert data.fingerprint == mixed.fingerprint
    assert torch.equal(Batches(data, same, seed=0)[5], Batches(mixed, conf, seed=0)[5])
    other = open_data(changed(conf, mix={"wiki": 0.6, "code": 0.4}))
    assert other.fingerprint != mixed.fingerprint
    assert isinstance(other, Mixture)
    assert {part.corpus.folder for part in other.parts} == {p.corpus.folder for p in mixed.parts}


def test_figures_are_those_of_a_text_with_these_shares(mixed: Mixture) -> None:
    metas = {part.name: part.corpus.meta for part in mixed.parts}
    meta = mixed.meta
    assert meta.train_tokens == sum(each.train_tokens for each in metas.values())
    assert meta.val_tokens_per_byte == pytest.approx(
        1 / sum(mixed.shares[n] / metas[n].val_tokens_per_byte for n in metas)
    )
    low, high = sorted(each.gzip_bits_per_byte for each in metas.values())
    assert low < meta.gzip_bits_per_byte < high
    read = mixed.read({"wiki": 2 * metas["wiki"].train_tokens})
    assert read["wiki"]["epochs"] == 2 and read["code"]["tokens"] == 0


@pytest.mark.parametrize("kind", ["bpe", "chars"])
def test_one_tokenizer_is_made_of_all_parts(
    conf: DataConf, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = changed(conf, tokenizer=kind, vocab_size=290)
    data = open_data(conf)
    assert isinstance(data, Mixture)
    assert len({part.corpus.tokenizer.fingerprint for part in data.parts}) == 1
    for part in data.parts:
        text = part.corpus.tokenizer.decode(part.corpus.val[:40].tolist())
        assert {"wiki": "river", "code": "def f"}[part.name] in text
    # The second time it is found without a look at a text.
    monkeypatch.setattr(shared_tokenizer, "_made", None)
    for file in Path(conf.cache_dir).glob("known/*"):
        file.touch()
    assert open_data(conf).fingerprint == data.fingerprint
    # One that is damaged is made again.
    monkeypatch.undo()
    (file,) = {Path(part.corpus.meta.tokenizer) for part in data.parts}
    file.write_bytes(file.read_bytes()[:-3])
    assert open_data(conf).fingerprint == data.fingerprint


def test_pieces_come_in_their_share() -> None:
    pieces = [str(number) for number in range(1000)]
    for ratio in (Fraction(1, 3), Fraction(1), Fraction(7, 3), Fraction(1, 5000)):
        drawn = list(shared_tokenizer.in_share(pieces, ratio))
        assert len(drawn) == -(-1000 * ratio.numerator // ratio.denominator)
        counts = np.bincount([int(piece) for piece in drawn], minlength=1000)
        assert counts.max() - counts.min() <= 1


def test_further_texts_validate_whole(conf: DataConf, mixed: Mixture, tmp_path: Path) -> None:
    books = write(tmp_path, "books", "once upon a time", 30)
    for kind in ("bytes", "bpe"):
        with_books = changed(
            conf, tokenizer=kind, vocab_size=290, validation={"books": {"paths": books}}
        )
        data = open_data(with_books)
        texts = heldout(with_books, data)
        assert [(text.name, text.share) for text in texts] == [
            ("code", 0.3), ("wiki", 0.7), ("books", 0.0),
        ]  # fmt: skip
        corpus = texts[-1].corpus
        assert isinstance(corpus, Corpus)
        assert corpus.meta.train_tokens == 0
        assert corpus.tokenizer.fingerprint == data.tokenizer.fingerprint
        assert corpus.tokenizer.decode(corpus.val[1:].tolist()) == Path(books).read_text()
    plain = changed(alone(conf, "wiki"), validation={"books": {"paths": books}})
    (own, further) = heldout(plain, open_data(plain))
    assert (own.name, own.share, further.name) == ("", 1.0, "books")


def test_the_validation_loss_is_the_mean_in_the_shares() -> None:
    assert mean_loss([2.0, 4.0], [0.25, 0.75]) == 3.5
    assert mean_loss([3.1, float("nan")], [1.0, 0.0]) == 3.1


def test_a_part_that_is_too_short_is_named(conf: DataConf, tmp_path: Path) -> None:
    short = {**conf.parts, "code": {"paths": write(tmp_path, "short", "x", 12)}}
    with pytest.raises(UserError, match=r"data\.parts\.code: data\.length=16 needs 17 tokens"):
        open_data(changed(conf, parts=short))
    with pytest.raises(UserError, match=r"data\.validation\.few: data\.length=16 needs 17 tokens"):
        few = changed(conf, validation={"few": {"paths": write(tmp_path, "few", "x", 2)}})
        heldout(few, open_data(few))
    with pytest.raises(UserError, match=r"data\.parts\.code: .*matches no file"):
        open_data(changed(conf, parts={**conf.parts, "code": {"paths": str(tmp_path / "none")}}))


def test_a_part_that_is_read_often_is_told_of(
    conf: DataConf, mixed: Mixture, caplog: pytest.LogCaptureFixture
) -> None:
    index = order_of(mixed, conf, 0)
    assert isinstance(index, MixedOrder)
    code = dict(zip(index.names, index.parts, strict=True))["code"]
    rows = round(mixture.OFTEN * code.windows / 0.3)
    index = replace(index, parts=tuple(replace(part, tokens=10**6) if part != code else part
                                       for part in index.parts))  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="crossover"):
        tell_of_parts(index, rows - 10, {"wiki": 7, "code": 3})
        tokens = [(rows - 10) * share * conf.length // 10 for share in (3, 7)]
        epochs = 0.7 * (rows - 10) / ((10**6 - 1) // conf.length)
        assert caplog.messages == [
            f"of the mixture this training reads code 30.00% ({tokens[0]:,} tokens, "
            f"{0.3 * (rows - 10) / code.windows:.3g} epochs) and wiki 70.00% ({tokens[1]:,} "
            f"tokens, {epochs:.3g} epochs)"
        ]
        tell_of_parts(index, rows + 40, {"wiki": 0.69, "code": 0.31})
    assert "reads code 30.00% for 31.00% (" in caplog.messages[1]
    assert caplog.messages[2].startswith("the part code is read 4.") and len(caplog.messages) == 3


def test_a_part_that_changes_underway_leaves_nothing_half_made(
    conf: DataConf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "code", "x = x +", 90)
    parts = {**conf.parts, "code": {"paths": path}}
    settings = changed(conf, parts=parts, cache_dir=str(tmp_path / "cache"))
    fill = store.fill

    def late(folder: Path, fingerprint: str, one: DataConf, *rest: Any) -> None:
        if one.paths == [path]:
            Path(path).write_text("another text altogether\n" * 90)
        fill(folder, fingerprint, one, *rest)

    monkeypatch.setattr(store, "fill", late)
    with pytest.raises(UserError, match=r"data\.parts\.code: code\.txt changed while the corpus"):
        open_data(settings)
    left = {path.name for path in (tmp_path / "cache").iterdir()} - {"known"}
    assert left == {prepare(alone(settings, "wiki")).folder.name}
    monkeypatch.undo()
    assert isinstance(open_data(settings), Mixture)  # with the text as it is now


def test_a_disk_that_fills_leaves_nothing_half_made(
    conf: DataConf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(conf, cache_dir=str(tmp_path / "cache"))
    write_ids = shards.Tokens._write

    def full(self: Any, encoded: Any) -> int:
        write_ids(self, encoded)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.Tokens, "_write", full)
    with pytest.raises(UserError, match=r"data\.parts\.wiki: .*cache: .*No space left.*make room"):
        open_data(settings)
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"known"}
    monkeypatch.undo()
    assert isinstance(open_data(settings), Mixture)


def test_a_part_with_masks_beside_one_without(conf: DataConf, tmp_path: Path) -> None:
    rows = [{"q": f"what is {n} and {n}?", "a": f"it is {2 * n}"} for n in range(80)]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answered = {"corpus": "jsonl", "paths": str(tmp_path / "qa.jsonl"), "prompt": "q"}
    parts = {"wiki": conf.parts["wiki"], "code": {**answered, "answer": "a"}}
    settings = changed(conf, parts=parts)
    data = open_data(settings)
    assert isinstance(data, Mixture) and data.masked
    batch = Batches(data, settings, seed=0)[2]
    assert isinstance(batch, Masked)
    names = [data.parts[number].name for number in Batches(data, settings, 0).order.places(2)[0]]
    learned = (batch.targets != IGNORE).sum(dim=1).tolist()
    assert all(count == 16 for name, count in zip(names, learned, strict=True) if name == "wiki")
    assert sum(c for name, c in zip(names, learned, strict=True) if name == "code") < 3 * 16
    assert batch.learned == sum(learned)
    assert data.meta.train_learned is not None
    assert data.meta.train_learned < data.meta.train_tokens
