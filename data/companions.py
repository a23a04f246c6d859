"""A tokenizer as the files that other tools read beside weights.

A Hugging Face directory has `tokenizer.json`, for the library `tokenizers`, and
`tokenizer_config.json`, which names the token that ends a text. RWKV World's tokenizer becomes a
`tokenizer.json` too: its greedy longest match is a regular expression, and no code of others is
needed; its vocabulary lies beside it in RWKV's text format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from core.errors import UserError
from data import sentencepiece_json
from data.rwkv_world_tokenizer import VOCABULARY, WorldTokenizer
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from data.text import END_OF_TEXT, TextTokenizer
from data.tokenizer_files import PIECES
from data.tokenizers import LibraryTokenizer
from data.traits import byte_symbols

LONGEST = 200
"""Bytes of a token in the regular expression, which is nested as deep."""
_CONFIG = "tokenizer_config.json"
TURN = b"\n\n"
"""What ends a turn of a conversation in RWKV World's texts."""
NORMAL, CONTROL = 1, 3
"""Kinds of tokens in GGUF."""
_Trie = dict[str, Any]  # of further tries; "" ends a token


def hugging_face_files(tokenizer: TextTokenizer) -> dict[str, str | bytes]:
    """The content of each file, by its name in the directory.

    A model of SentencePiece is there as it is too, under a name from which `transformers` makes
    nothing of its own; it comes without a `tokenizer.json` where none gives its ids.
    Raises `UserError` for a vocabulary of RWKV World's kind with tokens beyond `LONGEST`.
    """
    files: dict[str, str | bytes] = {}
    if isinstance(tokenizer, WorldTokenizer):
        files[VOCABULARY] = tokenizer.vocabulary()
        files["tokenizer.json"] = greedy(tokenizer.tokens).to_str()
    elif isinstance(tokenizer, LibraryTokenizer):
        files["tokenizer.json"] = tokenizer.definition
    elif isinstance(tokenizer, SentencePieceTokenizer):
        files[PIECES] = tokenizer.model
        if (made := sentencepiece_json.definition(tokenizer)) is None:
            return files
        files["tokenizer.json"] = made
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.end_of_text is not None:
        end = tokenizer.decode([tokenizer.end_of_text])
        config |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), end)
    files[_CONFIG] = json.dumps(config, indent=2) + "\n"
    return files


def greedy(tokens: Sequence[bytes]) -> Tokenizer:
    """A tokenizer of the library that takes the longest of `tokens` again and again.

    `tokens[i]` has id i + 1, and 0 ends a text. Raises `UserError` for tokens beyond `LONGEST`.
    """
    if (longest := max(map(len, tokens))) > LONGEST:
        raise UserError(
            f"the tokenizer has a token of {longest} bytes, and {LONGEST} is the most that "
            "a tokenizer.json can have of such a vocabulary"
        )
    symbols = byte_symbols()
    names = ["".join(symbols[byte] for byte in token) for token in tokens]
    trie: _Trie = {}
    for name in names:
        node = trie
        for symbol in name:
            node = node.setdefault(symbol, {})
        node[""] = {}
    vocab = {END_OF_TEXT: 0} | {name: i for i, name in enumerate(names, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Split(Regex(_longest_match(trie)), behavior="isolated"),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return tokenizer


def _longest_match(node: Mapping[str, Any]) -> str:
    """A regular expression for the longest way through the trie below `node` that ends a token."""
    below = {symbol: _longest_match(child) for symbol, child in node.items() if symbol}
    if not below:
        return ""
    leaves = [re.escape(symbol) for symbol, rest in sorted(below.items()) if not rest]
    ways = [re.escape(symbol) + rest for symbol, rest in below.items() if rest]
    if leaves:
        ways.append(leaves[0] if len(leaves) == 1 else f"[{''.join(leaves)}]")
    if len(ways) == 1 and "" not in node:
        return ways[0]
    return f"(?:{'|'.join(ways)})" + ("?" if "" in node else "")


def llama_cpp_vocabulary(tokenizer: TextTokenizer) -> dict[str, Any]:
    """The fields of `models.formats.gguf_file.Vocabulary`.

    Raises `UserError` for a tokenizer that llama.cpp has no implementation of: it takes RWKV
    World's vocabulary, and byte-level BPE that cuts a text as GPT-2 does.
    """
    if isinstance(tokenizer, WorldTokenizer):
        names = [repr(token)[2:-1].encode() for token in tokenizer.tokens]
        special = dict.fromkeys(("bos", "eos"), 0)
        if TURN in tokenizer.tokens:
            special["eot"] = tokenizer.tokens.index(TURN) + 1
        kinds = [CONTROL, *(NORMAL for _ in names)]
        return {"model": "rwkv", "tokens": [b"<s>", *names], "kinds": kinds, "special": special}
    definition = json.loads(tokenizer.definition) if isinstance(tokenizer, LibraryTokenizer) else {}
    model, separator = definition.get("model") or {}, definition.get("pre_tokenizer") or {}
    byte_level = separator.get("type") == "ByteLevel" and not separator.get("add_prefix_space")
    cuts_alike = separator.get("use_regex", True) or not model.get("merges")
    if (
        model.get("type") != "BPE"
        or definition.get("normalizer")
        or not (byte_level and cuts_alike)
    ):
        raise UserError(
            "format=gguf holds RWKV World's vocabulary or a byte-level BPE as GPT-2's, and this "
            "tokenizer is neither: convert a source without tokenizer, and keep it beside the file"
        )
    added = {token["id"]: token["content"] for token in definition["added_tokens"]}
    ids = {i: token for token, i in model["vocab"].items()} | added
    tokens = [ids.get(i, f"[PAD{i}]") for i in range(tokenizer.vocab_size)]
    end = tokenizer.end_of_text
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [token.encode() for token in tokens],
        "kinds": [CONTROL if i in added else NORMAL for i in range(len(tokens))],
        "merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]
        ],
        "special": {} if end is None else dict.fromkeys(("bos", "eos"), end),
    }
