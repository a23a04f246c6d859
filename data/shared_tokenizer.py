"""One tokenizer for the parts of a mixture, made from all of them and kept beside their corpora.

    CACHE_DIR/FINGERPRINT/shared.tokenizer     the content of a tokenizer.json
    CACHE_DIR/FINGERPRINT/shared.json          its size and digest

The fingerprint covers the parts, their shares and what is asked for, so it is found again without
reading a text; a file that does not fit its digest is made again. To the parts it is then a
tokenizer's file like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path

from conf.schema import DataConf
from core.atomic_folders import make_folder
from core.errors import UserError
from core.files import damage, write_manifest
from data import corpora, tokenizers
from data.documents import Split
from data.known_files import Outline, Survey
from data.meta import FORMAT
from data.mixed_order import quotas
from data.notices import say
from data.recipes import characters_of, training_pieces
from data.splitting import split as split_in_two
from data.text import TextTokenizer

FILE = "shared.tokenizer"
MADE = ("bpe", "chars")
"""The tokenizers that depend on the text."""


def shared_tokenizer(conf: DataConf, parts: Mapping[str, DataConf]) -> str:
    """`data.tokenizer` of every part: as it is, or the file of one made from all of them.

    A `bpe` is trained on the training texts in the shares of the mixture, counted in bytes; `chars`
    has every character of any part. Raises `UserError` for a part that cannot be read.
    """
    if conf.tokenizer not in MADE or len(parts) == 1:
        return conf.tokenizer
    texts: dict[str, Split | Outline] = {}
    for name, part in parts.items():
        try:
            survey = Survey(part, corpora.documents(part))
            texts[name] = survey.outline or survey.split()  # read only if it is not known
        except UserError as error:
            raise UserError(f"data.parts.{name}: {error}") from None
    rows = quotas(conf.mix)
    # Sorted by what they hold: names decide nothing.
    order = sorted(texts, key=lambda name: (texts[name].fingerprint, rows[name]))
    words = [(texts[name].fingerprint, rows[name]) for name in order]
    recipe = f"bpe {conf.vocab_size}" if conf.tokenizer == "bpe" else conf.tokenizer
    key = hashlib.sha256(f"{FORMAT} tokenizer {recipe} {words}".encode()).hexdigest()[:16]
    folder = Path(conf.cache_dir) / key

    def sound(candidate: Path) -> bool:
        return damage(candidate / FILE) is None

    def fill(aside: Path) -> None:
        splits = [_split(name, parts[name], texts[name]) for name in order]
        made = _made(conf, splits, [rows[name] for name in order])
        made.save(aside / FILE)
        write_manifest(aside / FILE)

    if not sound(folder):
        try:
            make_folder(
                folder, fill, sound,
                lambda: say(f"another process makes the tokenizer {folder}: waiting for it"),
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UserError(
                f"data.cache_dir={conf.cache_dir}: cannot store the tokenizer there ({error})"
            ) from None
    return str(folder / FILE)


def _split(name: str, conf: DataConf, text: Split | Outline) -> Split:
    if isinstance(text, Split):
        return text
    split = split_in_two(corpora.documents(conf), conf.val_fraction)
    if split.fingerprint != text.fingerprint:
        raise UserError(
            f"data.parts.{name}: its text changed while the tokenizer was being made: run the same "
            "command again once nothing writes there any more"
        )
    return split


def _made(conf: DataConf, splits: list[Split], rows: list[int]) -> TextTokenizer:
    if conf.tokenizer == "chars":
        return characters_of(splits)
    sizes = [split.side("train").bytes for split in splits]
    wanted = [Fraction(share, sum(rows)) * sum(sizes) for share in rows]

    def texts() -> Iterator[str]:
        for split, size, bytes_wanted in zip(splits, sizes, wanted, strict=True):
            yield from in_share(training_pieces(split), bytes_wanted / size)

    return tokenizers.train_bpe(texts(), conf.vocab_size)


def in_share(pieces: Iterable[str], ratio: Fraction) -> Iterator[str]:
    """Every piece `ratio` times: some of them evenly left out, or each as often as that is."""
    for number, piece in enumerate(pieces):
        for _ in range(ceil((number + 1) * ratio) - ceil(number * ratio)):
            yield piece
