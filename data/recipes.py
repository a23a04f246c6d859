"""Which tokenizer a configuration asks for, and what names it in the key of a prepared corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from conf.schema import DataConf
from core.errors import UserError
from core.parsing import Missing, Unreadable
from data import tokenizers
from data.corpora import Document
from data.foreign import Foreign
from data.text import TextTokenizer

OWN = ("bpe", "bytes", "chars")  # any other is the path of a file
SAMPLE = 1 << 12  # bytes of a document that a file is tried on
_APART = " apart"  # once cut in places where such a tokenizer does not separate words


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
    if file is None:
        return [f"bpe {conf.vocab_size}" if conf.tokenizer == "bpe" else conf.tokenizer]
    key = f"file {hashlib.sha256(file.content).hexdigest()}"
    return [key, key + _APART]


def chosen(conf: DataConf, file: Foreign | None, documents: Sequence[Document]) -> str:
    """The one that it is, once a file has been tried on the first documents. Raises `UserError`."""
    recipes = possible(conf, file)
    if file is None:
        return recipes[0]
    samples = [doc.content[:SAMPLE].decode(errors="ignore") for doc in documents[:8]]
    largest = max((len(doc.content) for doc in documents), default=0)
    return recipes[file.try_on(samples, largest)]


def build(
    conf: DataConf, file: Foreign | None, train: Iterable[str], val: Iterable[str]
) -> TextTokenizer:
    """The tokenizer `conf` asks for, trained on `train` where it is trained.

    `val` only adds to the alphabet of `chars`, as in nanoGPT.
    """
    if file is not None:
        return file.tokenizer()
    if conf.tokenizer == "bpe":
        return tokenizers.train_bpe(train, conf.vocab_size)
    if conf.tokenizer == "bytes":
        return tokenizers.byte_tokenizer()
    return tokenizers.char_tokenizer(set().union(*train, *val))
