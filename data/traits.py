"""What a `tokenizer.json` does to texts, told from its definition."""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers

_KEEP = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
"""Ways to separate words that leave no character out."""


def byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level tokenizer.

    Printable Latin-1 stands for itself; the other bytes take U+0100 onwards, in order (GPT-2).
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    spare = iter(sorted(symbol for symbol in alphabet if ord(symbol) > 255))
    return [chr(byte) if chr(byte) in alphabet else next(spare) for byte in range(256)]


def first_space_is_free(definition: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` puts a space before each text or takes one away in decoding.

    So do those in SentencePiece's style: " a" and "a" then are the same tokens.
    """
    kinds = ("Metaspace", "Prepend", "Strip")
    parts = [definition.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
    put = has(definition.get("pre_tokenizer"), "add_prefix_space", (True,))
    return put or has(parts, "type", kinds)


def by_character(definition: dict[str, Any]) -> bool:
    """Whether every character, or byte, is a token of its own whatever stands beside it."""
    model = definition["model"]
    merges = model.get("merges", True) or model.get("fuse_unk")
    return not merges and not definition.get("normalizer") and not first_space_is_free(definition)


def loses_nothing(definition: dict[str, Any]) -> bool:
    """Whether the tokens of any text decode to that text, by construction.

    True of a byte-level BPE that has all 256 bytes, changes no text before it is separated, and
    leaves none out then: tokens are runs of the text's bytes, in order. Special tokens in a text
    must be encoded as text. False means that nothing is known.
    """
    model, added = definition["model"], definition.get("added_tokens") or []
    if model.get("type") != "BPE" or definition.get("normalizer"):
        return False
    if any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        return False
    if not model["vocab"].keys() >= set(byte_symbols()):
        return False
    names = {number: token for token, number in model["vocab"].items()}
    if not all(
        token["special"] and names.get(token["id"], token["content"]) == token["content"]
        for token in added
    ):
        return False
    decoder, separator = definition.get("decoder") or {}, definition.get("pre_tokenizer") or {}
    steps = separator["pretokenizers"] if separator.get("type") == "Sequence" else [separator]
    *before, last = steps or [{}]
    return (
        decoder.get("type") == "ByteLevel"
        and all(step["type"] == "Split" and step["behavior"] in _KEEP for step in before)
        and last.get("type") == "ByteLevel"
        and not last.get("add_prefix_space", True)
    )


def has(part: Any, key: str, values: tuple[object, ...]) -> bool:
    """Whether any of the nested `part` has one of `values` under `key`."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    here = isinstance(part, dict) and part.get(key) in values
    return here or any(has(child, key, values) for child in inner)
