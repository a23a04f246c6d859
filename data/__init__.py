"""Tokens: corpora, tokenizers, the prepared store, and the map from a step to its batch."""
