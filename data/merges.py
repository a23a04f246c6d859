"""A byte-level BPE in two files, `vocab.json` and `merges.txt`, as a `tokenizer.json`."""

from __future__ import annotations

import json
from typing import Any

from data.tiktoken_ranks import GPT2, byte_level_bpe
from data.traits import byte_symbols

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def definition(vocab: str, merges: str, config: dict[str, Any]) -> str:
    """The `tokenizer.json` of the two files' texts.

    The class that `tokenizer_config.json` names decides how words are separated: as GPT-2 does, or
    Qwen2, which also composes characters. Raises `ValueError` for another kind of vocabulary.
    """
    ids = json.loads(vocab)
    if not isinstance(ids, dict) or not ids.keys() >= set(byte_symbols()):
        raise ValueError(
            "vocab.json is not that of a byte-level BPE as GPT-2's: save the tokenizer as a "
            "tokenizer.json with transformers' AutoTokenizer"
        )
    lines = [line for line in merges.splitlines() if not line.startswith("#version")]
    pairs = [tuple(line.split(" ")) for line in lines if line.strip()]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(f"merges.txt: expected two tokens, and not {' '.join(wrong)[:40]!r}")
    special, plain = {}, []
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if token.get("special"):
            special[token["content"]] = int(number)
        else:
            plain.append({"single_word": False, **token, "id": int(number)})
    qwen = str(config.get("tokenizer_class", "")).startswith("Qwen2")
    made = json.loads(byte_level_bpe(
        ids,
        [(left, right) for left, right in pairs],
        QWEN2 if qwen else GPT2,
        special,
        {"type": "NFC"} if qwen else None,
        whole_words=False,
    ))  # fmt: skip
    made["added_tokens"] = sorted(made["added_tokens"] + plain, key=lambda token: token["id"])
    if config.get("add_prefix_space"):
        made["pre_tokenizer"] = {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True
        }  # fmt: skip
    return json.dumps(made)
