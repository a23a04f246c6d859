"""What a training reads: one prepared corpus, or a mixture of several with one tokenizer.

Each part of a mixture is a prepared corpus in its own folder, so mixtures with other shares, or
other parts beside them, use the same folders where the tokenizer is the same. A mixture of one part
is that part.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from conf.schema import DataConf
from core.errors import UserError
from core.units import bits_per_byte, listing
from data.growth import Growth
from data.magic_prime import magic_prime
from data.meta import FORMAT, TOKENIZER, Meta
from data.mixed_order import MixedOrder, fingerprint_of, quotas
from data.order import Order, WindowOrder
from data.parts import part_confs, validation_confs
from data.shared_tokenizer import shared_tokenizer
from data.store import Corpus, prepare
from data.tasks.task_data import TASKS, NoText, TaskData, TaskOrder, open_task
from data.text import TextTokenizer

log = logging.getLogger("crossover")

OFTEN = 4.0
"""Epochs over one part from which a training is told of it: up to about 4, repeated text is worth
nearly as much as new text (Muennighoff et al. 2023, arXiv 2305.16264)."""


class Part(NamedTuple):
    """One of the corpora of a mixture."""

    name: str
    corpus: Corpus
    quota: int
    """Rows of each block of the mixture."""


class Heldout(NamedTuple):
    """Text that validates."""

    name: str
    """Empty where it is all there is."""
    corpus: Corpus | TaskData
    """Whose `val` it is."""
    share: float
    """Weight of its loss in the validation loss; 0 for one that only has a curve."""

    def losses(self, group: str, loss: float) -> dict[str, float]:
        """A loss in nats per token, and in bits per byte where there is a text."""
        per_byte = self.corpus.meta.val_tokens_per_byte
        bits = {} if per_byte is None else {f"{group}bits_per_byte": bits_per_byte(loss, per_byte)}
        return {f"{group}loss": loss, **bits}


class Right(NamedTuple):
    """How much of what a task asks is answered right; of a text, nothing is asked."""

    accuracy: float | None = None
    """Share of the targets that are the likeliest token where they stand."""
    exact_match: float | None = None
    """Share of the sequences of which all targets are; of those that a model made, of the right."""
    bits_per_sequence: float | None = None
    """What the targets of a sequence cost together, on average: the losses of all of them."""
    formed: float | None = None
    """Share of the sequences that a model made which have all parts, whatever these are."""

    def named(self, group: str) -> dict[str, float]:
        """What there is, by the names of a row or a summary."""
        figures = self._asdict().items()
        return {f"{group}{name}": value for name, value in figures if value is not None}


@dataclass(frozen=True)
class Mixture:
    """Several prepared corpora that are read in fixed shares."""

    parts: tuple[Part, ...]
    """In the order of their fingerprints: what they are called changes nothing that is read."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """That of all parts."""
        return self.parts[0].corpus.tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of token ids a model of this mixture needs."""
        return self.parts[0].corpus.vocab_size

    @property
    def masked(self) -> bool:
        """Whether some tokens of a part are read and not learned."""
        return any(part.corpus.masked for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the parts and their shares."""
        return fingerprint_of([(part.corpus.fingerprint, part.quota) for part in self.parts])

    @property
    def shares(self) -> dict[str, float]:
        """The share of the tokens that each part has in every batch, on average; they sum to 1."""
        block = sum(part.quota for part in self.parts)
        return {part.name: part.quota / block for part in self.parts}

    @property
    def meta(self) -> Meta:
        """Sums over the parts; rates are those of a text in which each has its share of the tokens.

        `unigram_entropy` is the mean of the parts' own.
        """
        metas = [(self.shares[part.name], part.corpus.meta) for part in self.parts]
        if all(meta.val_tokens for _, meta in metas):
            bytes_per_token = sum(share / meta.val_tokens_per_byte for share, meta in metas)
            of_bytes = [
                (share / meta.val_tokens_per_byte / bytes_per_token, meta) for share, meta in metas
            ]
        else:  # nothing is held out
            bytes_per_token, of_bytes = math.inf, []
        first = metas[0][1]
        return Meta(
            format=FORMAT,
            corpus="mixture",
            fingerprint=self.fingerprint,
            tokenizer=first.tokenizer,
            tokenizer_fingerprint=first.tokenizer_fingerprint,
            vocab_size=first.vocab_size,
            dtype=first.dtype,
            train_documents=sum(meta.train_documents for _, meta in metas),
            val_documents=sum(meta.val_documents for _, meta in metas),
            train_bytes=sum(meta.train_bytes for _, meta in metas),
            val_bytes=sum(meta.val_bytes for _, meta in metas),
            train_tokens=sum(meta.train_tokens for _, meta in metas),
            val_tokens=sum(meta.val_tokens for _, meta in metas),
            val_tokens_per_byte=1 / bytes_per_token,
            unigram_entropy=sum(share * meta.unigram_entropy for share, meta in metas),
            gzip_bits_per_byte=sum(share * meta.gzip_bits_per_byte for share, meta in of_bytes),
            xz_bits_per_byte=sum(share * meta.xz_bits_per_byte for share, meta in of_bytes),
            train_learned=sum(learned(meta.train_learned, meta.train_tokens) for _, meta in metas)
            if self.masked
            else None,
            val_learned=sum(learned(meta.val_learned, meta.val_tokens) for _, meta in metas)
            if self.masked
            else None,
        )

    def read(self, tokens: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """What a training that has read so many tokens of each part has read of it."""
        return {
            part.name: {
                "share": self.shares[part.name],
                "tokens": tokens.get(part.name, 0),
                "epochs": tokens.get(part.name, 0) / part.corpus.meta.train_tokens,
            }
            for part in sorted(self.parts, key=lambda part: part.name)
        }


def learned(some: int | None, every: int) -> int:
    """Tokens that are learned, of a part that may have no masks."""
    return every if some is None else some


Data = Corpus | Mixture | TaskData


def open_data(conf: DataConf) -> Data:
    """The corpus of `conf`, or the mixture of its parts, prepared where they have not been; or its
    task, of which nothing is prepared.

    Raises `UserError` as `data.store.prepare` does, with the name of the part.
    """
    confs = part_confs(conf)
    if not confs:
        return open_task(conf) if conf.corpus in TASKS else prepare(conf)
    shared = shared_tokenizer(conf, confs)
    corpora = {name: _prepare(f"data.parts.{name}", one, shared) for name, one in confs.items()}
    if len(corpora) == 1:
        return next(iter(corpora.values()))
    found = {corpus.tokenizer.fingerprint: name for name, corpus in corpora.items()}
    if len(found) > 1:
        raise UserError(
            f"the parts {' and '.join(found.values())} were prepared with different tokenizers: "
            f"the file data.tokenizer={conf.tokenizer} has changed meanwhile; run it again"
        )
    rows = quotas(conf.mix)
    parts = [Part(name, corpus, rows[name]) for name, corpus in corpora.items()]
    return Mixture(tuple(sorted(parts, key=lambda one: (one.corpus.fingerprint, one.quota))))


def order_of(data: Data, conf: DataConf, seed: int, accumulate: int = 1) -> Order:
    """The order in which a training reads `data`. Raises `UserError` for a prime that is none."""
    growth = Growth.of(conf, accumulate)

    def of(corpus: Corpus, growth: Growth | None) -> WindowOrder:
        tokens, prime = corpus.meta.train_tokens, 0
        if conf.order == "magic_prime":
            prime = magic_prime(tokens, conf.length, conf.magic_prime)
        return WindowOrder(
            tokens, conf.length, conf.batch_size, corpus.fingerprint, seed, growth, prime
        )

    if isinstance(data, TaskData):
        return TaskOrder(conf.length, conf.batch_size, data.fingerprint, seed, growth)
    if not isinstance(data, Mixture):
        return of(data, growth)
    names, corpora, rows = zip(*data.parts, strict=True)
    orders = tuple(of(corpus, None) for corpus in corpora)
    return MixedOrder(names, orders, rows, conf.batch_size, data.fingerprint, seed, growth)


def heldout(conf: DataConf, data: Data) -> tuple[Heldout, ...]:
    """The texts that validate a training on `data`: its own, then those of `data.validation`;
    none where nothing is held out and no further one is named.

    Of a mixture, those of its parts by their names, whose losses have the parts' shares in the
    validation loss. Raises `UserError` for one that cannot be read.
    """
    own, further = own_heldout(data), list[Heldout]()
    if isinstance(data, TaskData):
        each = validation_confs(conf).items()
        return (*own, *(Heldout(name, open_task(one), 0.0) for name, one in each))
    for name, one in validation_confs(conf).items():
        first = data.parts[0].corpus if isinstance(data, Mixture) else data
        assert isinstance(first, Corpus)
        # What is trained or counted on a text is not made anew for another one.
        made = conf.tokenizer in ("bpe", "chars")
        file = str(first.folder / TOKENIZER) if made else conf.tokenizer
        corpus = _prepare(f"data.validation.{name}", one, file)
        if corpus.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise UserError(
                f"data.validation.{name} was prepared with another tokenizer than the training's: "
                f"{file} has changed meanwhile; run it again"
            )
        further.append(Heldout(name, corpus, 0.0 if own or further else 1.0))
    return (*own, *further)


def measured_on(data: Data, texts: Sequence[Heldout]) -> Meta | NoText:
    """What is said of the text whose loss is the validation loss of a training on `data`."""
    if own_heldout(data):
        return data.meta
    return texts[0].corpus.meta if texts else NoText()


def own_heldout(data: Data) -> tuple[Heldout, ...]:
    """What is held out of the corpus, if anything, or of each part of the mixture, by its name."""
    if not isinstance(data, TaskData) and not data.meta.val_tokens:
        return ()
    if not isinstance(data, Mixture):
        return (Heldout("", data, 1.0),)
    parts = sorted(data.parts, key=lambda part: part.name)
    return tuple(Heldout(part.name, part.corpus, data.shares[part.name]) for part in parts)


def mean_loss(losses: Iterable[float], shares: Iterable[float]) -> float:
    """The validation loss from those of the texts: the mean in the shares of the training."""
    return sum(share * loss for share, loss in zip(shares, losses, strict=True) if share)


def by_name(
    texts: Iterable[Heldout], losses: Iterable[float], right: Iterable[Right]
) -> dict[str, dict[str, float]]:
    """The loss of each named text, in nats per token and in bits per byte, and what of a task is
    right."""
    return {
        text.name: {
            **text.losses("", loss),
            **answers.named(""),
            "share": text.share,
        }
        for text, loss, answers in zip(texts, losses, right, strict=True)
        if text.name
    }


def tell_of_parts(order: Order, rows: int, asked: Mapping[str, float] | None) -> None:
    """Say what a training of so many rows reads of each part of a mixture, whose shares were
    `asked` for, and which parts it reads more often than `OFTEN`."""
    if isinstance(order, MixedOrder) and asked is not None:
        epochs_of, parts = order.epochs(rows), []
        for name, quota in sorted(zip(order.names, order.quotas, strict=True)):
            share, wanted = (f"{part:.2%}" for part in (
                quota / order.block, asked[name] / sum(asked.values())
            ))  # fmt: skip
            part = f"{name} {share}" + (f" for {wanted}" if wanted != share else "")
            if order.growth is None:
                tokens = rows * quota * order.length // order.block
                part += f" ({tokens:,} tokens, {epochs_of[name]:.3g} epochs)"
            parts.append(part)
        log.warning("of the mixture this training reads %s", listing(parts))
        for name, epochs in epochs_of.items():
            if epochs > OFTEN:
                log.warning(
                    "the part %s is read %.1f times in this training: it is short for its share",
                    name,
                    epochs,
                )


def _prepare(place: str, conf: DataConf, tokenizer: str) -> Corpus:
    """Raises `UserError` that names the part."""
    try:
        return prepare(replace(conf, tokenizer=tokenizer), f"{place} ({conf.corpus})")
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
