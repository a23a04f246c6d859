"""Text that is read and not learned, from a document to the targets of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.schema import DataConf
from core.errors import UserError
from data import corpora, encoding, preparation
from data.batches import Batches, all_validation, validation_windows
from data.documents import SIDES, Document
from data.manifest import MASKS
from data.meta import IGNORE
from data.splitting import split
from data.store import prepare
from tests.data.test_preparation import cut, interrupted, lengthen
from tests.data.test_store import contents, flip

SIZES = (3, 40, 7, 600, 25, 90, 12, 300, 4, 55, 900, 31)


def spans_of(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where the first, third, ... of texts that follow one another lie."""
    edges = [0, *itertools.accumulate(len(text.encode()) for text in texts)]
    return tuple(zip(edges[::2], edges[1::2], strict=False))


def talk(number: int) -> list[str]:
    """Two questions, each before its answer; every third ends in words that are not learned."""
    size = SIZES[number]
    last = ["thanks ü"] if number % 3 == 0 else []
    return [f"Q{number} " * size, f"answer {number} " * 3, "and? ", "ü" * size, *last]


def document(number: int) -> Document:
    texts = talk(number)
    content = "".join(texts).encode()
    return Document(str(number), lambda: [content], unlearned=spans_of(texts))


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConf:
    """A corpus of several shards."""

    def read(conf: DataConf) -> Iterable[Document]:
        return [document(number) for number in range(len(SIZES))]

    monkeypatch.setitem(corpora.CORPORA, "talks", read)
    monkeypatch.setattr(preparation, "SHARD", 2000)
    monkeypatch.setattr(encoding, "GROUP", 500)
    return DataConf(
        corpus="talks", tokenizer="bytes", length=16, batch_size=4, val_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip


def expected(conf: DataConf) -> dict[str, tuple[list[int], list[int]]]:
    """Tokens and mask of each side, put together by hand."""
    sides = {side: ([], []) for side in SIDES}  # type: dict[str, tuple[list[int], list[int]]]
    parted = split([document(number) for number in range(len(SIZES))], conf.val_fraction)
    for number in range(len(SIZES)):
        tokens, mask = sides[SIDES[parted.sides[number]]]
        tokens.append(256)  # end of text: learned where the end of the document before it is
        mask.append(mask[-1] if mask else 1)
        for place, text in enumerate(talk(number)):
            tokens += text.encode()
            mask += [place % 2] * len(text.encode())
    return sides


def test_mask_marks_exactly_what_is_learned(conf: DataConf) -> None:
    corpus = prepare(conf)
    wanted = expected(conf)
    for side in SIDES:
        tokens, mask = wanted[side]
        assert np.fromfile(corpus.folder / f"{side}.bin", np.uint16).tolist() == tokens
        assert np.fromfile(corpus.folder / f"{side}.mask", np.uint8).tolist() == mask
    meta, val_mask = corpus.meta, wanted["val"][1]
    assert (meta.train_learned, meta.val_learned) == (sum(wanted["train"][1]), sum(val_mask))
    # Of bytes, each token is one; the end-of-text tokens that are learned count too.
    learned = sum(m for t, m in zip(*wanted["val"], strict=True) if t != 256)
    assert meta.val_tokens_per_byte == sum(val_mask) / learned
    assert corpus.masked and corpus.val_mask[:].tolist() == val_mask


def test_words_end_where_the_mask_changes(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tokens of an answer are those that a model is asked for after the question alone."""
    texts = ["say hello", "hello there", " again"]
    content = "".join(texts).encode()
    spoken = Document("a", lambda: [content[:11], content[11:]], unlearned=spans_of(texts))
    plain = Document.of("b", b"hello there hello there again say say hello " * 40)
    monkeypatch.setitem(corpora.CORPORA, "talks", lambda conf: [spoken, plain])
    conf.tokenizer, conf.length = "bpe", 4
    corpus = prepare(conf)
    end = corpus.tokenizer.end_of_text
    pieces = [corpus.tokenizer.encode(text) for text in texts]
    sides = (corpus.train, corpus.train_mask), (corpus.val, corpus.val_mask)
    tokens, mask = (file[:] for file in min(sides, key=lambda side: len(side[0])))
    assert tokens.tolist() == [end, *itertools.chain(*pieces)]
    assert mask.tolist() == [1, *itertools.chain(*([i % 2] * len(p) for i, p in enumerate(pieces)))]


def test_stopped_anywhere_masks_end_in_the_same_bytes(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(conf).folder
    sound = contents(folder)
    assert set(MASKS) <= set(sound)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    harms: list[Callable[[Path], object]] = [lambda path: None, cut, flip, lengthen, Path.unlink]
    for saves, harm in zip((1, 2, 3, 1, 2), harms, strict=True):
        partial = interrupted(conf, monkeypatch, saves)
        harm(partial / "train.mask")
        folder = prepare(conf).folder
        assert contents(folder) == sound, harm
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_damage_to_a_mask_is_noticed(conf: DataConf, capfd: pytest.CaptureFixture[str]) -> None:
    folder = prepare(conf).folder
    sound = contents(folder)
    harms: list[Callable[[Path], object]] = [cut, flip, Path.unlink]
    for name, harm in itertools.product(("val.mask", "val.mask.blocks"), harms):
        harm(folder / name)
        prepare(conf)
        assert contents(folder) == sound, name
        assert "damaged" in capfd.readouterr().err


def test_text_that_is_learned_whole_has_no_masks(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is another corpus than the same text with spans that are not."""
    masked = prepare(conf)
    plain = [Document.of(str(number), "".join(talk(number)).encode()) for number in range(12)]
    monkeypatch.setitem(corpora.CORPORA, "talks", lambda conf: plain)
    corpus = prepare(conf)
    assert not corpus.masked and corpus.fingerprint != masked.fingerprint
    assert not [path for path in corpus.folder.iterdir() if "mask" in path.name]
    assert "learned" not in (corpus.folder / "meta.json").read_text()
    assert isinstance(Batches(corpus, conf, 0)[0], torch.Tensor)


def test_nothing_to_learn_is_refused(conf: DataConf, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Document("a", lambda: [b"answer" + b" question" * 50], unlearned=((6, 456),))
    monkeypatch.setitem(corpora.CORPORA, "talks", lambda conf: [one])
    with pytest.raises(UserError, match="validation text has nothing that is learned"):
        prepare(conf)
    assert list(Path(conf.cache_dir).iterdir()) == []


def test_batch_has_the_targets_that_are_learned(conf: DataConf) -> None:
    """And their number in the whole step, which every process finds by itself."""
    corpus = prepare(conf)
    mask = np.fromfile(corpus.folder / "train.mask", np.uint8)
    batches = [Batches(corpus, conf, 3, rank, 2, accumulate=2) for rank in (0, 1)]
    for step in range(8):
        starts = batches[0].order.places(step)[1]
        both = [each[step] for each in batches]
        tokens, targets = (torch.cat([batch[i] for batch in both]) for i in (0, 1))
        for row, start in enumerate(starts):
            learned = torch.from_numpy(mask[start + 1 : start + 17]).bool()
            window = torch.from_numpy(corpus.train[start : start + 17].astype(np.int64))
            assert torch.equal(tokens[row], window[:-1])
            assert torch.equal(targets[row], window[1:].where(learned, IGNORE))
        pair = step // 2 * 2, step // 2 * 2 + 1
        others = [batches[0].order.places(number)[1] for number in pair]
        total = sum(int(mask[start + 1 : start + 17].sum()) for start in np.concatenate(others))
        assert [batch.learned for batch in both] == [total, total]


def test_growing_batches_count_what_they_have(conf: DataConf) -> None:
    conf.batch_size, conf.batch_warmup, conf.length_warmup = 8, 4, 4
    batches = Batches(prepare(conf), conf, 0, accumulate=2)
    for step in (0, 1, 2, 5):
        parts = [batches[2 * step], batches[2 * step + 1]]
        assert parts[0].learned == sum(int((part.targets >= 0).sum()) for part in parts)


def test_validation_reads_windows_with_something_to_learn(conf: DataConf) -> None:
    corpus = prepare(conf)
    windows = list(validation_windows(corpus, 16, 10**6))
    assert all((targets >= 0).any() for _, targets in windows)
    total = sum(int((targets >= 0).sum()) for _, targets in all_validation(corpus, 16, 4))
    assert total == int(corpus.val_mask[1:].sum())
    full = (len(corpus.val) - 1) // 16 * 16
    found = sum(int((targets >= 0).sum()) for _, targets in windows)
    assert found == int(corpus.val_mask[1 : 1 + full].sum())
    assert len(list(validation_windows(corpus, 16, 3))) == 3


def test_special_tokens_stay_whole_where_they_are_meant(
    conf: DataConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are text where people wrote their names."""
    name = b"<|endoftext|>"
    meant = Document("a", lambda: [name + b" said " + name], special=((0, 13),))
    monkeypatch.setitem(corpora.CORPORA, "talks", lambda conf: [meant, Document.of("b", b"x" * 99)])
    corpus = prepare(conf)
    side = corpus.val if len(corpus.val) < len(corpus.train) else corpus.train
    assert side[:].tolist() == [256, 256, *(b" said " + name)]
