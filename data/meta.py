"""What `meta.json` of a prepared corpus says."""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 1  # of the folder; raise it when the same corpus would be stored differently
META, TOKENIZER = "meta.json", "tokenizer.json"


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
    """Including the end-of-text token before each document."""
    val_tokens: int
    val_tokens_per_byte: float
    """Times nats per token, divided by ln 2: bits per byte, comparable across tokenizers."""
    unigram_entropy: float
    """Nats per validation token under the validation tokens' own frequencies."""
    gzip_bits_per_byte: float
    """Bits per byte of the first 8 MiB of validation text in one stream, by `gzip -9`."""
    xz_bits_per_byte: float
    """Bits per byte by `xz -9`."""


def token_dtype(vocab_size: int) -> str:
    """The dtype of token ids on disk."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"
