"""Which tokenizer a configuration asks for, and what names it in the key of a prepared corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from conf.schema import DataConf
from core.errors import UserError
from core.parsing import Missing, Unreadable
from data import tokenizers
from data.documents import Split
from data.encoding import Pieces
from data.foreign import Foreign
from data.text import TextTokenizer

OWN = ("bpe", "bytes", "chars")  # any other is the path of a file
SAMPLE = 1 << 12  # bytes of a document that a file is tried on
_APART = " apart"  # once cut in places where such a tokenizer does not separate words
_AFTER = " after"  # where documents are ended, and not begun, by the end-of-text token
_WHOLE = " whole"  # where names of special tokens are those tokens


def foreign(conf: DataConf) -> Foreign | None:
    """The file of a tokenizer that somebody else has made, if it is one.

    Raises `UserError` if there is no such file.
    """
    if conf.tokenizer in OWN:
        return None
    try:
        return Foreign(conf.tokenizer)
    except Missing:
        problem = "neither bpe, bytes, chars nor a file that exists"
    except Unreadable as error:
        problem = error.reason
    raise UserError(f"data.tokenizer={conf.tokenizer!r}: {problem}")


def possible(conf: DataConf, file: Foreign | None) -> list[str]:
    """What, beside the corpus, decides the tokens: one of these.

    Only trying a file tells which (`chosen`); what has been prepared need not be tried again.
    """
    special = (_WHOLE if keeps_whole(conf) else "") + (_AFTER if ends_after(conf) else "")
    if file is None:
        own = f"bpe {conf.vocab_size}" if conf.tokenizer == "bpe" else conf.tokenizer
        return [own + special]
    key = f"file {hashlib.sha256(file.content).hexdigest()}"
    return [key + special, key + _APART + special]


def keeps_whole(conf: DataConf) -> bool:
    """Whether names of special tokens in a text are those tokens."""
    return conf.special_tokens == "whole"


def ends_after(conf: DataConf) -> bool:
    """Whether the end-of-text token stands after each document, and not before it."""
    return conf.end_of_text == "after"


def chosen(conf: DataConf, file: Foreign | None, split: Split) -> str:
    """The one that it is, once a file has been tried on the first documents. Raises `UserError`."""
    recipes = possible(conf, file)
    if file is None:
        return recipes[0]
    samples = [part[:SAMPLE].decode(errors="ignore") for part in split.beginnings(8)]
    return recipes[file.try_on(samples, split.largest)]


def build(conf: DataConf, file: Foreign | None, split: Split) -> TextTokenizer:
    """The tokenizer `conf` asks for, trained on the training documents where it is trained.

    Those held out only add to the alphabet of `chars`, as in nanoGPT.
    """
    if file is not None:
        return file.tokenizer()
    if conf.tokenizer == "bpe":
        return tokenizers.train_bpe(training_pieces(split), conf.vocab_size)
    if conf.tokenizer == "bytes":
        return tokenizers.byte_tokenizer()
    return characters_of([split])


def training_pieces(split: Split) -> Iterator[str]:
    """The training documents in the pieces that a BPE is trained on."""
    cutter = Pieces(tokenizers.cut)
    for text, ends in split.texts("train"):
        yield from cutter.push(text, ends)


def characters_of(splits: Iterable[Split]) -> TextTokenizer:
    """A token for each character of any document."""
    alphabet: set[str] = set()
    for split in splits:
        for part in split.parts():
            alphabet.update(part.content.decode())
    return tokenizers.char_tokenizer(alphabet)
