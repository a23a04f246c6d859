"""tiktoken's files: a rank for each token, in base64, as a tokenizer of the library `tokenizers`.

The file does not say how a text is separated into words, nor which special tokens there are; both
belong to its name. They are those of `tiktoken_ext.openai_public` (tiktoken 0.14), without the
possessive quantifiers, which change no match and which the library's engine reads differently.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from data.traits import byte_symbols

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "<|endoftext|>"
_MIDDLE = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

KNOWN: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": (GPT2, {_END: 50256}),
    "r50k_base": (GPT2, {_END: 50256}),
    "p50k_base": (GPT2, {_END: 50256}),
    "p50k_edit": (
        GPT2,
        {_END: 50256} | {name: 50281 + i for i, name in enumerate(_MIDDLE)},
    ),
    "cl100k_base": (
        CL100K,
        {_END: 100257}
        | {name: 100258 + i for i, name in enumerate(_MIDDLE)}
        | {"<|endofprompt|>": 100276},
    ),
    "o200k_base": (O200K, {_END: 199999, "<|endofprompt|>": 200018}),
}
"""Pattern and special tokens of each name."""


def definition(name: str, ranks: str) -> str:
    """The `tokenizer.json` of the file called `name` that holds `ranks`. Raises `ValueError`."""
    known = next((key for key in KNOWN if key in name), None)
    if known is None:
        raise ValueError(
            f"tiktoken's ranks need a name that says how words are separated: {', '.join(KNOWN)}, "
            f"and not {name!r}"
        )
    pattern, special = KNOWN[known]
    ids, merges = vocabulary(ranks)
    return byte_level_bpe(ids, merges, pattern, special)


def vocabulary(ranks: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every token with its id, and all merges in order. Raises `ValueError`.

    A token may be put together of any two tokens, and the one with the lowest rank is put together
    first, wherever it stands: so each way to part a token is a merge of its own.
    """
    ids: dict[bytes, int] = {}
    for number, line in enumerate(ranks.splitlines(), start=1):
        encoded, _, rank = line.partition(" ")
        try:
            token, id_ = base64.b64decode(encoded, validate=True), int(rank)
        except (binascii.Error, ValueError):
            raise ValueError(f"line {number}: expected a token in base64 and its rank") from None
        if ids.setdefault(token, id_) != id_:
            raise ValueError(f"line {number}: the token of rank {ids[token]} once more")
    symbols = byte_symbols()
    names = {token: "".join(symbols[byte] for byte in token) for token in ids}
    merges = []
    for token, _ in sorted(ids.items(), key=lambda entry: entry[1]):
        ways = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(left, right) for left, right in ways if left in ids and right in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [(names[left], names[right]) for left, right in pairs]
    return {names[token]: rank for token, rank in ids.items()}, merges


def byte_level_bpe(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    pattern: str,
    special: dict[str, int],
    normalizer: dict[str, Any] | None = None,
    whole_words: bool = True,
) -> str:
    """A `tokenizer.json` that separates words by a regular expression, then merges bytes.

    With `whole_words` a word that is a token is that token, whatever merges would make of it.
    Special tokens keep their ids only as entries of the vocabulary.
    """
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    byte_level: dict[str, Any] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False
    }  # fmt: skip
    separator: dict[str, Any] = {
        "type": "Sequence",
        "pretokenizers": [split | {"invert": False}, byte_level],
    }
    if pattern == GPT2:  # in the form in which everybody knows it
        separator = byte_level | {"use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": whole_words, "vocab": vocab | special, "merges": merges,
    }  # fmt: skip
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": number, "content": name, **plain, "special": True}
            for name, number in sorted(special.items(), key=lambda entry: entry[1])
        ],
        "normalizer": normalizer,
        "pre_tokenizer": separator,
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": model,
    })  # fmt: skip
