"""How much a command line may hold. Asked of the bare words, before anything reads them.

Hydra's grammar takes seconds for thousands of values and gives up with a traceback where they are
nested deeply; an interpolation may stand for any number of others. So what is beyond any use is
refused here, in one line that says what a line may hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import isfinite, prod
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep

from conf import schema
from core.bounds import beginning
from core.errors import UNPRINTABLE
from scripts.cli.arguments import keys

WORDS = 200
CHARACTERS = 20_000
VALUES = 2_000
DEPTH = 20
INTERPOLATIONS = 20
JOBS = 1_000

UNREADABLE = re.compile(r"[\x00\ud800-\udfff]")  # in a text that is taken as typed
INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{([^{}]*)\}?")
KEY = re.compile(r"[A-Za-z]\w*(\.\w+)*")
ENVIRONMENT = re.compile(r"oc\.env:\w+(,[^\[\]'\"]*)?")


def excess(config_name: str, words: Sequence[str]) -> list[str]:
    """What is too much, too deep or not text in the words of a command line; empty if nothing."""
    if len(words) > WORDS:
        return [
            f"{len(words):,} words: a command line may have {WORDS}; "
            "give many files as a pattern in quotes"
        ]
    by_name: dict[str, Any] = {
        name: item.metadata for name, _, item in keys(schema.SCRIPTS[config_name])
    }
    read = []
    for word in words:
        name, _, text = word.partition("=")
        if by_name.get(name, {}).get("verbatim"):
            if UNREADABLE.search(text):
                return [f"{beginning(word)}: a text must be UTF-8 without NUL"]
        else:
            read.append(word)
            if UNPRINTABLE.search(word):
                return [f"{beginning(word)}: a word must be UTF-8 without control characters"]
    if (size := sum(map(len, read))) > CHARACTERS:
        longest = max(read, key=len)
        return [
            f"{size:,} characters, {len(longest):,} of them in {beginning(longest)}: a command "
            f"line may have {CHARACTERS:,}"
        ]
    if (count := sum(word.count(",") for word in read)) > VALUES:
        return [f"{count:,} values: a command line may have {VALUES:,}; give files as a pattern"]
    for word in read:
        steps = ((letter in "[{(") - (letter in ")}]") for letter in word)
        if (depth := max(accumulate(steps, initial=0))) > DEPTH:
            return [
                f"{beginning(word)}: {depth} brackets within one another, at most {DEPTH} can be"
            ]
    paths = {name for name, metadata in by_name.items() if metadata["path"]}
    return list(_interpolations(read, paths))


def _interpolations(words: Sequence[str], paths: set[str]) -> Iterator[str]:
    """Those that are more than the value of another key, or than a variable inside a path."""
    inside = {word: INTERPOLATION.findall(word) for word in words if "${" in word}
    if (count := sum(map(len, inside.values()))) > INTERPOLATIONS:
        yield f"{count} values of other keys: a command line may have {INTERPOLATIONS}"
        return
    chained = {word.partition("=")[0] for word, references in inside.items() if references}
    for word, references in inside.items():
        name = word.partition("=")[0]
        for text in references:
            if name in paths and ENVIRONMENT.fullmatch(text):
                continue
            if not KEY.fullmatch(text):
                yield (
                    f"{beginning(word)}: {beginning('${' + text + '}')} is no key; only another "
                    "key's value can be put in, as in name=a-${seed}; variables are the shell's"
                )
            elif text in chained:
                yield f"{beginning(word)}: {text} stands for other keys itself; name those"


def too_many_jobs(overrides: Sequence[Override]) -> str | None:
    """What is wrong with the number of runs that the overrides span, found without listing them."""
    try:
        count = prod(map(_jobs_of, overrides))
    except (ValueError, OverflowError) as error:
        return str(error)
    if count <= JOBS:
        return None
    number = f"{count:,.0f}" if count < 1e15 else f"{count:.0e}"
    return f"{number} runs, and one command starts at most {JOBS:,}: split the sweep"


def _jobs_of(override: Override) -> float:
    """How many values an override stands for. Raises `ValueError` if a range leads nowhere."""
    value: Any = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if not isinstance(value, RangeSweep):
        return 1  # or a glob: as many as there are files
    if any(map(beyond, (value.start, value.stop, value.step))):
        raise ValueError("the ends of a range must be numbers of at most 64 bits")
    start, stop, step = (float(bound or 0) for bound in (value.start, value.stop, value.step))
    if not step or not all(map(isfinite, (start, stop, step))):
        raise ValueError("a range needs finite ends, and a step other than 0")
    return abs(stop - start) / abs(step)


def beyond(value: Any) -> bool:
    """Whether it is an integer of more than 64 bits, or holds one."""
    if isinstance(value, dict):
        return any(map(beyond, value.values()))
    if isinstance(value, list):
        return any(map(beyond, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63
