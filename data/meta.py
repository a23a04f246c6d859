"""What `meta.json` of a prepared corpus says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1  # of the folder; raise it when the same corpus would be stored differently
META, TOKENIZER = "meta.json", "tokenizer.json"
IGNORE = -100
"""A target that is not learned, as in `torch.nn.functional.cross_entropy`."""
MASK_DTYPE = "uint8"
"""A mask has 1 for a token that is learned, and 0 for one that is only read."""


@dataclass(frozen=True)
class Meta:
    """What a prepared corpus is, and how hard its validation text is for simple compressors."""

    format: int
    corpus: str
    fingerprint: str
    tokenizer: str
    tokenizer_fingerprint: str
    vocab_size: int
    dtype: str
    train_documents: int
    val_documents: int
    train_bytes: int
    val_bytes: int
    train_tokens: int
    """Including the end-of-text token before or after each document."""
    val_tokens: int
    val_tokens_per_byte: float
    """Times nats per token, divided by ln 2: bits per byte, comparable across tokenizers. Of the
    tokens and bytes that are learned. This and what follows is 0 where nothing is held out."""
    unigram_entropy: float
    """Nats per learned validation token under these tokens' own frequencies."""
    gzip_bits_per_byte: float
    """Bits per byte of the first 8 MiB of validation text in one stream, by `gzip -9`."""
    xz_bits_per_byte: float
    """Bits per byte by `xz -9`."""
    train_learned: int | None = None
    """Training tokens that are learned; None: all, and there are no masks."""
    val_learned: int | None = None
    end_of_text: str | None = None
    """`after`: the end-of-text token stands after each document; None: before it."""

    def as_dict(self) -> dict[str, Any]:
        """What `meta.json` holds: nothing of masks where there are none."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def token_dtype(vocab_size: int) -> str:
    """The dtype of token ids on disk."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"
