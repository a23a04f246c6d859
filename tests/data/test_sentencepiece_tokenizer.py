"""SentencePiece's models: the ids of its own library, however a text arrives."""

from __future__ import annotations

import io
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from core.errors import UserError
from data import encoding, foreign, tokenizers
from data.encoding import Encoder
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from data.text import StreamDecoder
from tests.data.test_encoding import in_parts
from tests.data.test_tokenizers import ENGLISH

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "byte_fallback": True, **PLAIN},
    "no prefix": {
        "model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, **PLAIN,
        "user_defined_symbols": ["<|user|>"],
    },
    "unigram": {"model_type": "unigram"},
    "across spaces": {
        "model_type": "bpe", "byte_fallback": True, "user_defined_symbols": ["quick\u2581dog"]
    },
}  # fmt: skip
TEXT = "The quick dog.\n  It jumps over  the lazy dog, again and again. " * 40


def trained(vocab_size: int = 320, **settings: Any) -> bytes:
    writer = io.BytesIO()
    lines = [line for text in (ENGLISH, TEXT) for line in text.splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, vocab_size=vocab_size,
        hard_vocab_limit=False, minloglevel=2, num_threads=1, **settings,
    )  # fmt: skip
    return writer.getvalue()


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> bytes:
    return trained(**KINDS[request.param])


@pytest.fixture(scope="module")
def llama() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(trained(**KINDS["llama"]))


def test_ids_are_those_of_the_library(model: bytes) -> None:
    ours = SentencePieceTokenizer(model)
    theirs: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = ["", " ", "The dog", " The  dog ", "<s>x</s>", TEXT[:500], "\n\nfox\t"]
    texts = [text for text in texts if theirs.unk_id() not in theirs.encode(text)]
    assert len(texts) > 3
    assert ours.encode_many(texts) == theirs.encode(texts)
    assert [ours.decode(ids) for ids in ours.encode_many(texts)] == theirs.decode(
        theirs.encode(texts)
    )
    assert ours.vocab_size == theirs.get_piece_size()
    assert ours.end_of_text == theirs.eos_id()


def test_parts_make_no_difference(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 1000)
    ours, draw = SentencePieceTokenizer(model), random.Random(0)
    theirs: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
    cut = ours.cut
    monkeypatch.setattr(ours, "cut", lambda text: cut(text, 300))
    for text in (TEXT, " " + TEXT, "a dog " * 300):
        encoder = Encoder(ours, 700)
        parts = [*chain.from_iterable(encoder.push(*part) for part in in_parts(text, draw))]
        ids = [*chain.from_iterable(new for new, _ in [*parts, *encoder.flush()])]
        assert ids == [theirs.eos_id(), *theirs.encode(text)]


@pytest.mark.parametrize("kind", ["llama", "no prefix"])
def test_texts_are_cut_where_no_piece_goes_on(kind: str) -> None:
    ours = SentencePieceTokenizer(trained(**KINDS[kind]))
    pieces = [*ours.cut(TEXT, 200)]
    assert len(pieces) > 5 and "".join(pieces) == TEXT
    across = SentencePieceTokenizer(trained(**KINDS["across spaces"]))
    assert [*across.cut(TEXT, 200)] == [TEXT]


def test_saved_it_is_the_same(llama: SentencePieceTokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(llama.model)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<s>"}}')
    loaded = foreign.load(tmp_path / "tokenizer.model", ["The dog"])
    assert loaded.fingerprint == llama.fingerprint
    other = foreign.load(tmp_path)
    assert other.end_of_text == 1
    other.save(tmp_path / "tokenizer.json")
    saved = tokenizers.load(tmp_path / "tokenizer.json")
    assert saved.fingerprint == other.fingerprint != llama.fingerprint
    assert saved.encode("The dog") == llama.encode("The dog")


def test_special_tokens_are_text_unless_kept_whole(llama: SentencePieceTokenizer) -> None:
    text = "The dog</s>again<s>"
    assert not {1, 2} & {*llama.encode(text)}
    (ids,) = llama.encode_many([text], whole=True)
    assert [i for i in ids if i in (1, 2)] == [2, 1]
    assert llama.decode(ids) == text
    assert ids[: ids.index(2)] == llama.encode("The dog")


@pytest.mark.parametrize("text", ["a 漢", "漢"])
def test_a_character_without_a_piece_is_named(text: str) -> None:
    ours = SentencePieceTokenizer(trained(**KINDS["unigram"]))
    with pytest.raises(UserError, match=r"cannot represent '漢' \(U\+6F22\)"):
        ours.encode(text)


def test_what_would_not_come_back_is_refused(llama: SentencePieceTokenizer) -> None:
    with pytest.raises(UserError, match=r"U\+2581.*it stands for a space there"):
        llama.encode("a\u2581b")
    with pytest.raises(UserError, match="not valid Unicode"):
        llama.encode("\udcff")


def test_a_stream_shows_what_decoding_gives(llama: SentencePieceTokenizer) -> None:
    ids = llama.encode("The dog jumps é漢 over")
    decoder = StreamDecoder(llama)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == "The dog jumps é漢 over"
    assert llama.decode([llama.vocab_size + 5]) == ""


@pytest.mark.parametrize("keep", [100, 2000])
def test_half_a_model_is_refused(llama: SentencePieceTokenizer, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "half.model"
    path.write_bytes(llama.model[:keep])
    with pytest.raises(UserError, match="not a model of SentencePiece"):
        foreign.load(path)
